"""Hybrid prompts on vLLM."""

import os

import pytest
import torch
from entities import TITLES, store_in

from recrl.envs.entities.marks import mark
from recrl.rl import policy
from recrl.rl.hybrid.serving import OPTIONS, embeds, export
from recrl.rl.policy import slots
from recrl.rl.policy.settings import PolicyConfig, TinyConfig
from recrl.rl.rollouts.colocate import left_alone
from recrl.rl.rollouts.settings import RolloutConfig

TAGS = [f"tag {letter}" for letter in "abcdefghijkl"]


@pytest.fixture
def exported(tmp_path):
    # A head of vLLM has at least 32 dimensions on a CPU.
    config = PolicyConfig(tiny=TinyConfig(hidden=128, vocabulary=300))
    model, tokenizer = policy.load(config, options=TAGS, texts=[f"{title}\n" for title in TITLES])
    store = store_in(tmp_path)
    layer = slots.add(model, store, 16, seed=0)
    slots.read_marks(tokenizer, store, layer.num_embeddings)
    export(model, tokenizer, tmp_path / "exported")
    return model.eval(), tokenizer, tmp_path / "exported"


def test_what_is_exported_is_the_model_without_slots(exported):
    model, _, folder = exported
    plain, tokenizer = policy.load(PolicyConfig(model=str(folder)))
    assert slots.of(plain) is None
    assert slots.of(model) is not None
    assert hasattr(model.config, slots.SETTING)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)
    assert tokenizer(mark("x"))["input_ids"] != tokenizer("x\n")["input_ids"], "it reads no marks"


@pytest.mark.slow
def test_vllm_answers_hybrid_prompts_as_transformers_does(exported):
    vllm = pytest.importorskip("vllm", reason="vLLM is optional; `make test` installs it")
    model, tokenizer, folder = exported
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    chats = [
        [{"role": "user", "content": "".join(map(mark, TITLES[first : first + 9])) + "What next?"}]
        for first in (0, 7, 20)
    ]
    encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)
    prompts = encoded["input_ids"]
    options = {**RolloutConfig(kv_cache=0.1).engine_options("float32", 256), **OPTIONS}
    with left_alone():
        engine = vllm.LLM(str(folder), **options)
        asked = vllm.SamplingParams(temperature=0.0, max_tokens=8, logprobs=1, ignore_eos=True)
        found = engine.generate([embeds(model, ids) for ids in prompts], asked, use_tqdm=False)
    worst = 0.0
    for ids, result in zip(prompts, found, strict=True):
        (answer,) = result.outputs
        row = torch.tensor([[*ids, *answer.token_ids]])
        with torch.no_grad():
            expected = model(input_ids=row).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        for at, token, given in zip(expected, answer.token_ids, answer.logprobs, strict=True):
            worst = max(worst, abs(at[token].item() - given[token].logprob))
            assert at[token] >= at.max() - 1e-4, "greedy answers are the same"
    print(f"log-probabilities differ by {worst:.1e} nats at most")
    assert worst < 1e-4
