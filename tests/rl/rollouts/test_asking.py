"""Asking an engine for a batch: who it answers, with which weights, and how it is held to them."""

import copy

import fixed_rollouts
import pytest
import torch
from accelerate import Accelerator

from recrl.rl.decoding.generate import generate
from recrl.rl.prefix.packing import continuation_logits
from recrl.rl.rollouts.asking import RolloutClient
from recrl.rl.rollouts.base import Answer, RolloutError
from recrl.rl.sampling import Sampling

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7], [8, 9], [10, 11, 12, 13]]
SAMPLING = Sampling(max_tokens=5, ends=(2,))


class Copy:
    """A real engine in this process: a model of its own, which takes over the weights that it is handed.

    Args:
        deaf: Say that it took them over, and keep its own.
    """

    dtype = "float32"

    def __init__(self, model, deaf=False):
        self.model, self.deaf = copy.deepcopy(model).eval(), deaf
        self.version, self.asked = None, []

    def update(self, version, weights):
        self.version = version
        own = dict(self.model.named_parameters())
        for name, value in weights():
            if not self.deaf:
                own[name].data.copy_(value)

    def generate(self, requests, sampling):
        self.asked.append(requests)
        for request in requests:
            torch.manual_seed(request.seed)
            drawn = generate(self.model, [list(request.prompt)] * request.answers, sampling)
            yield [Answer(tuple(t), self._logprobs(request.prompt, t), (self.version,)) for t in drawn]

    def _logprobs(self, prompt, tokens):
        asked, answer = torch.tensor([prompt]), torch.tensor([[tokens]])
        rows = (asked, torch.ones_like(asked)), (answer, torch.ones_like(answer))
        with torch.no_grad():
            logits, labels = continuation_logits(self.model, *rows, shared=False)
        return tuple(logits.log_softmax(-1).gather(-1, labels[..., None]).flatten().tolist())

    def close(self):
        pass


@pytest.fixture
def model():
    return fixed_rollouts.policy_and_tokenizer()[0]


def client(model, **options):
    engine = Copy(model, **options)
    return engine, RolloutClient(engine, model, Accelerator(cpu=True))


def score(model):
    def logprobs(ids, mask, width):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[:, -width:, None])[..., 0]

    return logprobs


def test_equal_prompts_are_one_request_and_answers_come_in_order(model):
    engine, asking = client(model)
    asking.hand_over(0)
    told = {}
    answers = asking.ask(
        PROMPTS, SAMPLING, lambda members, tokens: told.update(zip(members, tokens, strict=True))
    )
    (requests,) = engine.asked
    assert [(request.prompt, request.answers) for request in requests] == [
        ((5, 6, 7), 2),
        ((8, 9), 2),
        ((10, 11, 12, 13), 1),
    ]
    assert len({request.seed for request in requests}) == 3
    assert told == {i: answer.tokens for i, answer in enumerate(answers)}


def test_what_is_sampled_follows_the_trainers_random_state(model):
    _, asking = client(model)
    asking.hand_over(0)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append([a.tokens for a in asking.ask(PROMPTS, SAMPLING, lambda *_: None)])
    assert drawn[0] == drawn[1]


def test_weights_are_outdated_after_a_step_and_only_then(model):
    engine, asking = client(model)
    assert asking.outdated(0)
    asking.hand_over(0)
    assert not asking.outdated(0)
    assert asking.outdated(1)
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    asking.hand_over(1)
    assert torch.equal(engine.model.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_an_engine_that_holds_the_weights_agrees(model):
    _, asking = client(model)
    asking.hand_over(0)
    answers = asking.ask(PROMPTS, SAMPLING, lambda *_: None)
    found = asking.compare(PROMPTS, answers, SAMPLING, score(model))
    assert found["logp_difference/max"] < 1e-4
    assert found["importance_ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert found["importance_ratio/min"] <= found["importance_ratio/mean"] <= found["importance_ratio/max"]


def test_an_engine_that_kept_its_weights_is_found_out(model):
    _, asking = client(model, deaf=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    asking.hand_over(1)
    answers = asking.ask(PROMPTS, SAMPLING, lambda *_: None)
    with pytest.raises(RolloutError, match=r"-1', the policy's, but .* not taken over"):
        asking.compare(PROMPTS, answers, SAMPLING, score(model))


def test_answers_of_other_weights_are_refused(model):
    engine, asking = client(model)
    asking.hand_over(0)
    engine.version = "another run's"
    with pytest.raises(RolloutError, match=r"sampled from weights \"another run's\""):
        asking.ask(PROMPTS, SAMPLING, lambda *_: None)


def test_a_trainer_with_an_engine_trains_on_its_answers(tmp_path):
    """Weights are handed over before each generation, and a few log-probabilities compared."""
    engine = Copy(fixed_rollouts.policy_and_tokenizer()[0])
    trainer = fixed_rollouts.trainer_for(tmp_path, rollouts=engine, max_steps=3)
    answers = fixed_rollouts.record_answers(trainer)
    trainer.train()
    assert len(answers) == 3 * fixed_rollouts.GROUPS * fixed_rollouts.SIZE
    assert engine.version.endswith("-2")
    rows = [row for row in trainer.state.log_history if "objective" in row]
    assert max(row["rollout/logp_difference/max"] for row in rows) < 1e-4
