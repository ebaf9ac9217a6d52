"""Whatever goes wrong in a reward ends as documented: on one rank and on two, and within its time-out."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from faults import FAULTS, LOST, TIMEOUT, WHOLE, broken_server, engine, score, spec
from places import STRATEGIES as CONFIGS
from places import SUPPORT

from recrl.rewards import RewardEngine

MARGIN = 5.0  # seconds: the machine may be busy
WORKER = 30.0  # a worker is a process that starts


@pytest.fixture(scope="module")
def server():
    with broken_server() as address:
        yield address


def limit(fault):
    return MARGIN + (WORKER if fault == "dies" else TIMEOUT)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_ends_the_run_names_reward_and_cause(fault, server):
    _, message, scores = FAULTS[fault]
    found = score(engine(fault, server, "raise"))
    assert found["seconds"] < limit(fault)
    if message is None:
        assert "error" not in found
        if scores is not None:
            np.testing.assert_array_equal(found["scores"][0], scores)
    else:
        assert message in found["error"]
        assert "'faulty'" in found["error"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_may_be_missing_leaves_what_is_well(fault, server):
    _, message, scores = FAULTS[fault]
    built = engine(fault, server, "missing")
    for batch in (1, 2):  # and the engine works on
        found = score(built)
        assert found["seconds"] < limit(fault)
        assert found["scores"][1] == [0.75] * 4
        if scores is not None:
            np.testing.assert_array_equal(found["scores"][0], scores)
        if fault != "flaky":
            failed = np.isnan(found["scores"][0]).sum() if message else 0
            assert built.failed == {"faulty": batch * failed}
    built.close()


@pytest.mark.parametrize(("fault", "each"), [("raise", 4), ("nan", 1)])
def test_too_many_missing_end_the_run(fault, each, server):
    built = engine(fault, server, "missing", max_missing=0.01)  # of 1,000 samples: ten
    good = 10 // each
    for _ in range(good):
        assert "scores" in score(built)
    found = score(built)
    assert f"could not score {each * (good + 1)} of the last {4 * (good + 1)} samples" in found["error"]
    assert "max_missing=0.01" in found["error"]
    # A resume knows of them.
    resumed = engine(fault, server, "missing", max_missing=0.01)
    resumed.load_state_dict(built.state_dict())
    assert "could not score" in score(resumed)["error"]


def test_a_flaky_reward_without_retries_is_an_error(server):
    assert "raised ConnectionError" in score(engine("flaky", server, "raise", retries=0))["error"]


def test_a_non_deterministic_reward_is_constant_from_a_cache(server):
    plain, cached = (engine("non-deterministic", server, "raise", cache=c) for c in (False, True))
    assert score(plain)["scores"] != score(plain)["scores"]
    assert score(cached)["scores"] == score(cached)["scores"]


def test_a_worker_that_hangs_is_ended_and_replaced(server):
    built = RewardEngine([spec("hang", server, "missing", workers=1)], resources={}, columns=[])
    for _ in range(2):
        found = score(built)
        np.testing.assert_array_equal(found["scores"][0], LOST)
        assert found["seconds"] < MARGIN + WORKER
    built.close()


@pytest.mark.slow
def test_all_faults_on_one_rank_of_two(server, tmp_path):
    """Rank 1 has the fault: rank 0 stops with it, or both go on with what each has."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(CONFIGS / "ddp.yaml"), "--num_processes", "2", "--main_process_port", "0"),
        *(str(SUPPORT / "faults_on_ranks.py"), server, str(tmp_path)),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for fault, (_, message, scores) in FAULTS.items():
        mine, other = (rank[f"{fault}, raise"] for rank in reversed(ranks))
        assert max(mine["seconds"], other["seconds"]) < limit(fault)
        if message is None:
            assert "error" not in mine
            assert other["scores"] == [WHOLE, [0.75] * 4]
        else:
            assert message in mine["error"]
            assert other["error"].startswith("on another rank: reward 'faulty'")
            assert message in other["error"]
        mine, other = (rank[f"{fault}, missing"] for rank in reversed(ranks))
        assert max(mine["seconds"], other["seconds"]) < limit(fault)
        assert other["scores"] == [WHOLE, [0.75] * 4]
        if scores is not None:
            np.testing.assert_array_equal(mine["scores"], [scores, [0.75] * 4])
