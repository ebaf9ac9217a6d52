"""Every reward is asked before anything is trained, and the run begins as if it had not been."""

import time

import pytest

from recrl.launch.config.reading import load
from recrl.launch.run.probe import probe
from recrl.launch.run.progress import Display
from recrl.launch.run.setup import prepare_setup
from recrl.rewards import RewardError

REWARDS = """
import asyncio
from recrl import reward

calls = []

@reward("probed_counts", range=(0, 1000))
class Counts:
    def __init__(self):
        self.seen = 0

    def __call__(self, completions):
        self.seen += len(completions)
        return [float(self.seen % 7)] * len(completions)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]

@reward("probed_learns", range=(0, 1))
class Learns(Counts):
    def __call__(self, completions):
        return [float(self.seen > 0)] * len(completions)

    def update(self, completions):
        self.seen += len(completions) + undefined

@reward("probed_asks", range=(0, 1))
async def asks(completion):
    calls.append(completion)
    return 0.5

@reward("probed_hangs", range=(0, 1))
async def hangs(completion):
    await asyncio.sleep(60)
    return 0.5

@reward("probed_logs", range=(0, 1))
def logs(completions, log_metric, log_extra, trainer_state):
    log_metric("seen", float(trainer_state.global_step))
    log_extra("words", [len(c[0]["content"].split()) for c in completions])
    return [0.5] * len(completions)

@reward("probed_moody", range=(0, 1))
def moody(completion):
    return 1 / (len(completion[0]["content"]) % 2)

@reward("probed_valid", range=(0, 1))
def valid_alone(answers):
    return [len(set(a.valid)) / len(a.valid) for a in answers]

@reward("probed_per_tag", range=(0, 1), per="tag")
def per_tag(answers):
    return [1 / (len(a.slots) - 2) ** 2 for a in answers]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "probed.py"
    path.write_text(REWARDS)
    return path


@pytest.fixture
def setup(file, cache, panel_task):
    def make(name, *overrides, **fields):
        entry = {"name": name.lower(), "use": f"{file}:{name}", **fields}
        rewards = f"rewards=[recall, novelty, duplicates, {entry}]"
        return prepare_setup(load("demo", [rewards, f"data.cache={cache}", *overrides]), Display(False))

    return make


def test_a_memory_is_not_that_of_drafts(setup):
    made = setup("Counts")
    probe(made)
    assert made.engine.state_dict()["rewards"]["counts"] == {"seen": 0}


def test_a_memory_that_cannot_learn_is_refused(setup):
    with pytest.raises(RewardError, match="'learns': its update raised NameError"):
        probe(setup("Learns"))


def test_what_waits_for_another_machine_gets_one_question(setup):
    made = setup("asks")
    probe(made)
    module = made.engine.call("asks").target.__globals__
    assert len(module["calls"]) == 1


def test_an_answer_that_does_not_come_is_a_fault_after_the_time_out(setup):
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"'hangs' .* took longer than timeout=0\.5"):
        probe(setup("hangs", timeout=0.5))
    assert time.monotonic() - started < 10


def test_trls_live_arguments_are_there(setup):
    probe(setup("logs"))


def test_one_that_may_fail_now_and_then_passes_and_nothing_is_counted(setup):
    made = setup("moody", on_error="missing", batch_size=1)
    probe(made)
    assert made.engine.failed == {"moody": 0}
    with pytest.raises(RewardError, match="'moody' raised ZeroDivisionError"):
        probe(setup("moody", batch_size=1))


def test_the_beginning_of_an_answer_is_asked_about_where_tags_get_credit(setup):
    probe(setup("per_tag", "optimizer.credit=sequence"))
    with pytest.raises(RewardError, match="'per_tag' raised ZeroDivisionError"):
        probe(setup("per_tag", "optimizer.credit=tag"))


def test_an_answer_without_anything_valid_is_asked_about(setup):
    """Drafts have some; an untrained model writes none."""
    with pytest.raises(RewardError, match="'valid_alone' raised ZeroDivisionError"):
        probe(setup("valid_alone"))
