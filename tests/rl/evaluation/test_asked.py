"""A policy that is asked each thing once, and further rows under prices that were fitted before."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from listed import Listed

from recrl.envs.catalog import Catalog
from recrl.rewards import RewardEngine, reward
from recrl.rl import policy
from recrl.rl.decoding.deploy import deploy
from recrl.rl.distributed.processes import distributed_state
from recrl.rl.evaluation.answers import scored
from recrl.rl.evaluation.asked import Asked
from recrl.rl.evaluation.serving import Serving
from recrl.rl.evaluation.settings import EvaluationConfig
from recrl.rl.evaluation.spread import Spread
from recrl.rl.goal import state
from recrl.rl.policy.settings import PolicyConfig, TinyConfig

TAGS = Catalog([f"tag {letter}" for letter in "abcdefghijklmnop"])
SLOTS, ROWS = 4, 30
CONFIG = EvaluationConfig(batch_size=8, candidates=4)


@reward("breadth", range=(0, 1))
def breadth(answers):
    """Distance of the first and the last of the listed tags in the alphabet: no tag has one by itself."""
    named = [answer.valid for answer in answers]
    return [(max(tags) - min(tags)) / (len(TAGS) - 1) if tags else 0.0 for tags in named]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    found = []
    for user in range(ROWS):
        lookback = sorted(rng.permutation(16)[:8].tolist())
        prompt = [{"role": "user", "content": f"household {user}: {TAGS.render(lookback)}"}]
        found.append({"prompt": prompt, "user": user, "unseen": True, "lookback": lookback})
    return found


@pytest.fixture(scope="module")
def model(rows):
    return policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)),
        options=TAGS.tags,
        texts=[row["prompt"][0]["content"] for row in rows],
    )


class _StoppedError(Exception):
    pass


class Watch:
    """Counts batches, and stops after some of them."""

    def __init__(self, stop_after=None):
        self.batches, self._stop_after = 0, stop_after

    @contextmanager
    def __call__(self, stage, count):
        def advance(done):
            self.batches += 1
            if self.batches == self._stop_after:
                raise _StoppedError

        yield advance


def asking(model, folder, watch, identity="weights", kind=Asked):
    return kind(*model, Listed(TAGS, SLOTS), CONFIG, 0, watch, folder=folder, identity=identity)


@pytest.mark.parametrize(
    ("kind", "copies"),
    [(Asked, 1), (Asked, 4), (Spread, 4)],
    ids=["greedy", "candidates", "candidates of a process among several"],
)
def test_after_a_stop_only_what_lacks_is_asked_and_all_is_as_without(model, rows, tmp_path, kind, copies):
    distributed_state()
    straight, first, second, third = Watch(), Watch(stop_after=2), Watch(), Watch()
    whole = asking(model, tmp_path / "whole", straight).candidates(rows, None, copies)
    with pytest.raises(_StoppedError):
        asking(model, tmp_path / "torn", first, kind=kind).candidates(rows, None, copies)
    (path,) = (tmp_path / "torn").iterdir()
    noted = path.read_bytes()
    path.write_bytes(noted + b'["tag a\\n')  # a process was killed while it wrote
    for watch in (second, third):
        again = asking(model, tmp_path / "torn", watch, kind=kind).candidates(rows, None, copies)
        assert again.texts == whole.texts
        assert np.array_equal(again.logprobs, whole.logprobs)
    assert path.read_bytes().startswith(noted)
    assert len(path.read_bytes().splitlines()) == ROWS * copies
    assert second.batches == straight.batches - first.batches > 0
    assert third.batches == 0


def test_another_question_is_asked_anew(model, rows, tmp_path):
    watch = Watch()
    asked = asking(model, tmp_path, watch)
    asked.greedy(rows, None, 1, "priced")
    favoured = torch.zeros(1, 1, len(TAGS.tags))
    favoured[..., 3] = 50.0
    bonuses = lambda first, end: favoured.expand(end - first, -1, -1)  # noqa: E731
    texts = asked.greedy(rows, bonuses, 1, "priced")
    assert all("tag d" in text for text in texts)
    assert texts == deploy(*model, [row["prompt"] for row in rows], asked.task.form, bonuses=bonuses)
    asking(model, tmp_path, watch, identity="other weights").greedy(rows, None, 1, "priced")
    assert len([*tmp_path.iterdir()]) == 3
    barred = [{**row, "barred": row["lookback"]} for row in rows]
    texts = asking(model, tmp_path, watch).greedy(barred, None, 1, "priced")
    for text, row in zip(texts, rows, strict=True):
        assert not {*TAGS.parse(text).slots} & {*row["lookback"]}
    assert len([*tmp_path.iterdir()]) == 4


def test_the_logprob_of_a_list_is_the_policys_over_what_is_allowed(model, rows, tmp_path):
    """Each tag is a token here: a step may take one of the tags that are not named yet."""
    given, tokenizer = model
    drawn = asking(model, tmp_path, Watch()).candidates(rows, None, 1)
    lines = [tokenizer.encode(f"{tag}\n", add_special_tokens=False) for tag in TAGS.tags]
    assert all(len(line) == 1 for line in lines)
    tokens = [line[0] for line in lines]
    for row, text, logprob in list(zip(rows, drawn.texts, drawn.logprobs[:, 0], strict=True))[:5]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)
        ids = list(prompt if isinstance(prompt, list) else prompt["input_ids"])
        left, total = list(tokens), 0.0
        for line in text.splitlines():
            token = tokens[TAGS.id(line)]
            with torch.no_grad():
                logits = given.eval()(torch.tensor([ids])).logits[0, -1].double()
            total += float(logits[token] - torch.logsumexp(logits[left], dim=0))
            left.remove(token)
            ids.append(token)
        assert logprob == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    "constraints", [["novelty >= 0.6 (mean)"], ["novelty >= 0.6 (mean)", "breadth >= 0.85 (mean)"]], ids=len
)
def test_further_answers_under_fitted_prices_are_those_that_were_fitted(model, rows, tmp_path, constraints):
    columns = ("user", "unseen", "lookback", "completion_ids")
    engine = RewardEngine(
        ["novelty", "breadth"], resources={"catalog": TAGS, "slots": SLOTS}, columns=columns
    )
    problem = state(engine.rewards, "breadth", constraints)
    task, watch = Listed(TAGS, SLOTS), Watch()
    asked = asking(model, tmp_path, watch)

    def scoring(some, texts, copies):
        return scored(some, texts, model[1], engine, copies)[0]

    given = (asked, scoring, task, engine, problem, CONFIG)
    served = Serving(*given, rows, rows).answers(problem.constraints)
    assert any(one.price or one.choice for one in served.priced)
    before = watch.batches
    drawn = Serving(*given, rows, rows).under(served.priced)
    assert drawn.texts == served.texts
    assert watch.batches == before  # the fit asked all of it
    means = scoring(rows, drawn.texts, 1).mean(axis=0)
    for one, constraint in zip(served.priced, problem.constraints, strict=True):
        assert one.met
        assert means[engine.names.index(constraint.reward)] == pytest.approx(one.held, abs=1e-6)
    some = rows[: CONFIG.batch_size]
    part = Serving(*given, some, some).under(served.priced)
    assert part.texts == drawn.texts[: CONFIG.batch_size]
