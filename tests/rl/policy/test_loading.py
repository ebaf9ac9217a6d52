import pytest
import torch

from recrl.envs.tags.prompts import prompted_rows
from recrl.rl import policy
from recrl.rl.policy.settings import PolicyConfig, TinyConfig
from recrl.rl.policy.tiny import tiny_model


@pytest.fixture(scope="module")
def loaded(panel_task):
    rows = prompted_rows(panel_task.split("train").head(200), panel_task.catalog, 10)
    texts = [message["content"] for row in rows for message in row["prompt"]]
    return rows, *policy.load(PolicyConfig(), options=panel_task.catalog.tags, texts=texts)


def test_the_tiny_policy_has_about_a_million_parameters(loaded):
    _, model, _ = loaded
    assert 0.5e6 <= sum(p.numel() for p in model.parameters()) <= 2e6


def test_every_tag_line_is_one_token_and_any_text_round_trips(loaded, panel_task):
    _, _, tokenizer = loaded
    for tag in range(len(panel_task.catalog)):
        assert len(tokenizer.encode(panel_task.catalog.render([tag]), add_special_tokens=False)) == 1
    for text in ("popcorn\ncorn\n", "Ünïcode — 漢字\n\n", "a tag that is none\nmilk"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    answer = panel_task.catalog.render([5, 9, 200])
    assert tokenizer.decode(tokenizer.encode(answer, add_special_tokens=False)) == answer


def test_a_prompt_renders_as_chat_and_ends_where_the_answer_begins(loaded, panel_task):
    rows, _, tokenizer = loaded
    text = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("one a line, none twice.<|im_end|>\n<|im_start|>assistant\n")
    data = text[text.index("<user>\n") : text.index("</user>")].splitlines()
    assert data[-1] == panel_task.catalog.tags[rows[0]["history"][0]], "the most frequent tag stands last"


def test_weights_follow_the_seed_and_leave_the_global_generator_alone(loaded):
    _, _, tokenizer = loaded
    state = torch.get_rng_state()
    one, same, other = (tiny_model(TinyConfig(), tokenizer, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weight = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])


def test_sampling_settings_of_a_saved_model_do_not_reach_us(loaded, tmp_path):
    _, model, tokenizer = loaded
    model.generation_config.temperature = 0.1
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, same = policy.load(PolicyConfig(model=str(tmp_path)))
    assert again.generation_config.temperature in (None, 1.0)
    assert same.chat_template == tokenizer.chat_template
    assert same.padding_side == "left"


def test_faults_name_the_setting(tmp_path):
    with pytest.raises(ValueError, match=r"dtype\n.*'float32' or 'bfloat16'"):
        policy.load(PolicyConfig(dtype="float8"))
    with pytest.raises(ValueError, match="pass options=, texts= or both"):
        policy.load(PolicyConfig())
    with pytest.raises(ValueError, match=r"policy\.tiny\.hidden=100"):
        policy.load(PolicyConfig(tiny=TinyConfig(hidden=100, heads=3)), options=["a"], texts=["a"])
