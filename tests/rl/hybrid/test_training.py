"""The adaptor learns what a frozen model reads, and nothing else changes."""

import numpy as np
import pytest
import torch
from entities import TITLES, store_in
from listed import Listed

from recrl.envs.catalog import Catalog
from recrl.envs.entities.marks import mark
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.hybrid.evaluation import overlap
from recrl.rl.hybrid.questions import Question, spelled
from recrl.rl.hybrid.settings import HybridConfig, TeacherConfig
from recrl.rl.hybrid.teaching import teach
from recrl.rl.hybrid.training import lessons_about, lessons_of, loss, train
from recrl.rl.policy import slots
from recrl.rl.policy.resuming import StoppedTraining
from recrl.rl.policy.settings import PolicyConfig, TinyConfig, WarmStartConfig
from recrl.rl.policy.warmstart import warm_start

CATALOG = Catalog([f"tag {letter}" for letter in "abcdefghijkl"])
CONFIG = HybridConfig(
    inner=64,
    steps=100,
    prompts_per_step=8,
    questions_per_step=4,
    learning_rate=1e-2,
    save_every=10,
    teacher=TeacherConfig(prompts=40, answers=2, kept=8),
)


def prompt(rng):
    """Four entities; their tags stand at the ends of the titles."""
    chosen = rng.choice(len(TITLES), 4, replace=False)
    return [{"role": "user", "content": "".join(mark(TITLES[i]) for i in chosen)}], [i % 12 for i in chosen]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model that names the tags of what stands in its prompt, spelled out."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        asked, tags = prompt(rng)
        tags = [*dict.fromkeys(tags)]
        rows.append({"prompt": spelled(asked), "target": tags[:2], "history": tags})
    model, tokenizer = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=64, vocabulary=320)),
        options=CATALOG.tags,
        texts=[row["prompt"][0]["content"] for row in rows],
    )
    config = WarmStartConfig(steps=50, prompts_per_step=16, lists_per_prompt=2)
    warm_start(model, tokenizer, rows, Listed(CATALOG, 2), config, seed=0)
    store = store_in(tmp_path_factory.mktemp("entities"))
    return model.eval(), tokenizer, store


@pytest.fixture
def ready(world):
    """A fresh adaptor in front of that model."""
    model, tokenizer, store = world
    before = model.get_input_embeddings()
    if isinstance(before, slots.EntityEmbedding):
        plain = torch.nn.Embedding(*before.weight.shape, padding_idx=before.padding_idx)
        plain.weight = before.weight
        model.set_input_embeddings(plain)
    layer = slots.add(model, store, CONFIG.inner, seed=0)
    slots.read_marks(tokenizer, store, layer.num_embeddings)
    return model, tokenizer


def lessons(model, tokenizer, folder, teacher=CONFIG.teacher, stop=lambda: False):
    rng = np.random.default_rng(1)
    prompts = [prompt(rng)[0] for _ in range(teacher.prompts)]
    form = Listed(CATALOG, 2).form
    taught = teach(model, tokenizer, [spelled(p) for p in prompts], form, teacher, 0, folder, stop=stop)
    if taught is None:
        return None
    asked = [Question(title, "tag", title[-5:]) for title in TITLES]
    return lessons_of(tokenizer, prompts, taught), lessons_about(tokenizer, asked)


def test_hybrid_prompts_are_answered_as_full_text_and_the_model_stays_frozen(ready, tmp_path):
    model, tokenizer = ready
    weights = {name: value.clone() for name, value in model.state_dict().items() if "adaptor" not in name}
    rng = np.random.default_rng(2)
    held_out = [prompt(rng)[0] for _ in range(60)]
    form = Listed(CATALOG, 2).form

    def share():
        hybrid, text = (
            deploy(model, tokenizer, prompts, form) for prompts in (held_out, [spelled(p) for p in held_out])
        )
        return np.nanmean(overlap(hybrid, text))

    before = share()
    teacher = CONFIG.teacher.model_copy(update={"prompts": 80})
    production, _ = lessons(model, tokenizer, tmp_path / "teacher", teacher)
    losses = train(model, production, [], CONFIG, 0)  # this model was never asked a question
    after = share()
    print(f"overlap with full text {before:.2f} -> {after:.2f}, loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert after > before + 0.25
    assert all(torch.equal(value, weights[n]) for n, value in model.state_dict().items() if n in weights)


def test_a_training_that_was_stopped_goes_on_and_ends_with_the_same_bits(ready, tmp_path):
    model, tokenizer = ready
    given = lessons(model, tokenizer, tmp_path / "teacher")
    config = CONFIG.model_copy(update={"steps": 8, "save_every": 3})
    start = {n: v.clone() for n, v in slots.of(model).adaptor.state_dict().items()}
    losses = train(model, *given, config, 0)
    ends = {n: v.clone() for n, v in slots.of(model).adaptor.state_dict().items()}
    for stops in ((4,), (1, 5)):
        slots.of(model).adaptor.load_state_dict(start)
        for last in stops:
            seen = []
            with pytest.raises(StoppedTraining, match=f"step {last}"):
                train(
                    model,
                    *given,
                    config,
                    0,
                    lambda step, _, seen=seen: seen.append(step),
                    checkpoint=tmp_path / "kept",
                    stop=lambda seen=seen, last=last: seen[-1] == last,
                )
            with torch.no_grad():  # a new process starts with other weights
                slots.of(model).adaptor.inward.weight.zero_()
        assert train(model, *given, config, 0, checkpoint=tmp_path / "kept") == losses
        assert all(torch.equal(v, ends[n]) for n, v in slots.of(model).adaptor.state_dict().items())
        (tmp_path / "kept").rename(tmp_path / f"kept {stops}")


def test_a_teacher_that_was_stopped_does_not_answer_again(ready, tmp_path, monkeypatch):
    model, tokenizer = ready
    assert lessons(model, tokenizer, tmp_path / "teacher", stop=lambda: True) is None
    (part,) = [path.name for path in (tmp_path / "teacher").iterdir()]
    assert part == "000000"
    kept = (tmp_path / "teacher" / part / "manifest.json").stat().st_mtime_ns
    found = lessons(model, tokenizer, tmp_path / "teacher")
    assert (tmp_path / "teacher" / part / "manifest.json").stat().st_mtime_ns == kept
    again = lessons(model, tokenizer, tmp_path / "other")
    assert [one.answers for one in found[0]] == [one.answers for one in again[0]]
    assert all(torch.equal(a.chances, b.chances) for a, b in zip(found[0], again[0], strict=True))
    monkeypatch.setattr("recrl.rl.hybrid.teaching.generate", None)
    lessons(model, tokenizer, tmp_path / "teacher")
    with torch.no_grad():
        model.model.norm.weight.mul_(1.01)
    with pytest.raises(TypeError):
        lessons(model, tokenizer, tmp_path / "teacher")  # another model answers anew
    with torch.no_grad():
        model.model.norm.weight.div_(1.01)


def test_distillation_is_the_cross_entropy_against_the_teachers_probabilities(ready, tmp_path):
    model, tokenizer = ready
    production, perception = lessons(model, tokenizer, tmp_path / "teacher")
    one = production[0]
    expected, place = [], 0
    for answer in one.answers:
        logits = model(input_ids=torch.tensor([[*one.prompt, *answer]])).logits[0, len(one.prompt) - 1 : -1]
        for row in logits.log_softmax(-1):
            expected.append(-(one.chances[place].float() * row[one.tokens[place].long()]).sum())
            place += 1
    assert loss(model, production[:1]).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    assert one.chances.float().sum(1).mean() > 0.9
    plain, _ = lessons(model, tokenizer, tmp_path / "plain", TeacherConfig(prompts=40, answers=2, kept=0))
    assert plain[0].tokens is None
    (two,) = plain[1].answers[:1]
    first = perception[0]
    logits = model(input_ids=torch.tensor([[*first.prompt, *first.answers[0]]])).logits
    told = torch.tensor(first.answers[0])
    expected = torch.nn.functional.cross_entropy(logits[0, len(first.prompt) - 1 : -1], told).item()
    assert loss(model, perception[:1]).item() == pytest.approx(expected, rel=1e-4)
    assert two[-1] == tokenizer.eos_token_id
