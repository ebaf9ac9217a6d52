"""Rollouts on a real vLLM, colocated and served, are sampled from the weights that the trainer has just
made."""

import json
import math
import os
import signal
import statistics
import threading
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fixed_rollouts import STEPS, policy_and_tokenizer, record_answers
from places import SUPPORT
from ranks import free_port, launch
from vllm_rollouts import HIDDEN, LONG, LONGEST, MOVING, SEEDS, engine, settings, trainer_of

from recrl.launch.cluster.serve import running
from recrl.rl.rollouts.base import Request, RolloutError
from recrl.rl.rollouts.settings import RolloutConfig
from recrl.rl.sampling import Sampling

if find_spec("vllm") is None:
    pytest.skip("rollouts on vLLM are optional; `make test` installs it", allow_module_level=True)
pytestmark = pytest.mark.slow

SCRIPT = SUPPORT / "vllm_rollouts.py"
PATIENCE = 240.0
ENGINES = ("vllm-colocate", "vllm-server")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model, tokenizer = policy_and_tokenizer(HIDDEN)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def serving(policy: Path, port: int, log: Path):
    config = settings("vllm-server", policy, f"http://127.0.0.1:{port}")
    return running(config, policy, "float32", LONGEST, port, run=policy, patience=PATIENCE, log=log)


@pytest.fixture(scope="module")
def address(policy, tmp_path_factory):
    port = free_port()
    with serving(policy, port, tmp_path_factory.mktemp("server") / "log.txt"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def results(policy, address, tmp_path_factory):
    """What each rank logged, by kind of launch; each is launched once."""
    found = {}

    def load(kind):
        if kind not in found:
            found[kind] = None  # a launch that failed is not tried again
            output = launch(
                tmp_path_factory.mktemp(kind) / "runs", kind, str(policy), address, script=SCRIPT, timeout=240
            )
            found[kind] = [json.loads(path.read_text()) for path in sorted(output.glob("rank*.json"))]
        assert found[kind], "the launch failed"
        return found[kind]

    return load


def column(found, name):
    return [row[name] for row in found["log"] if name in row]


@pytest.mark.parametrize("adapters", ["", " lora"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("kind", "ranks"), [("one", 1), ("ddp", 2), ("zero3", 2)])
def test_answers_are_sampled_from_the_current_weights(results, kind, ranks, name, adapters):
    """At the start and after each of three optimiser steps, tied embeddings included."""
    found = [rank[name + adapters] for rank in results(kind)]
    assert len(found) == ranks
    for rank in found:
        assert rank["error"] is None
        assert rank["answers"] == STEPS * 16 // ranks
    assert len(column(found[0], "rollout/logp_difference/max")) == STEPS
    assert max(column(found[0], "rollout/logp_difference/max")) <= 1e-4
    for side in ("min", "mean", "max"):
        assert column(found[0], f"rollout/importance_ratio/{side}") == pytest.approx([1.0] * STEPS, abs=1e-4)
    # Adam goes on moving the weights after its first gradient.
    assert column(found[0], "grad_norm")[0] > 0, "the weights stood still"


def test_both_engines_give_the_same_run(results):
    """Seeds come from the trainer, so it does not matter where vLLM runs."""
    (found,) = results("one")
    one, other = (column(found[name], "reward") for name in ENGINES)
    assert one == other


@pytest.mark.parametrize("name", ENGINES)
def test_weights_that_were_not_taken_over_stop_the_run(results, name):
    """At the first generation after a step, with an error that says what the engine claims to hold."""
    (found,) = results("one")
    broken = found[f"{name} forgetful"]
    assert broken["answers"] == 16, "only the first batch may be trained on"
    assert "-1'" in broken["error"]
    assert "not taken over" in broken["error"]


@pytest.mark.parametrize("name", ENGINES)
def test_correction_is_trls_and_truncation_is_no_fault(results, name):
    (found,) = results("one")
    corrected = found[f"{name} corrected"]
    assert corrected["error"] is None
    assert len(column(corrected, "sampling/importance_sampling_ratio/mean")) == STEPS
    assert max(column(corrected, "rollout/logp_difference/max")) <= 1e-4
    # The nucleus scales its tokens up, so the policy finds them less likely than they were.
    assert min(column(corrected, "rollout/importance_ratio/min")) >= 0.9 - 1e-4
    assert min(column(corrected, "rollout/importance_ratio/mean")) < 1.0


def test_a_run_on_vllm_gets_the_reward_of_one_on_transformers(results):
    (found,) = results("one")
    ends = {
        backend: [statistics.fmean(column(found[f"{backend} {seed}"], "objective")[-5:]) for seed in SEEDS]
        for backend in ("vllm", "transformers")
    }
    starts = [column(found[f"vllm {seed}"], "objective")[0] for seed in SEEDS]
    assert len(column(found["vllm 0"], "objective")) == LONG
    one, other = ends["vllm"], ends["transformers"]
    error = math.sqrt((statistics.variance(one) + statistics.variance(other)) / len(SEEDS))
    assert abs(statistics.fmean(one) - statistics.fmean(other)) <= 2 * error + 0.01, ends
    assert statistics.fmean(one) > statistics.fmean(starts), "nothing was learned"


def test_a_server_that_is_killed_and_started_again_loses_nothing(policy, tmp_path):
    port, stack = free_port(), ExitStack()
    log = tmp_path / "server.txt"
    with stack:
        servers = [stack.enter_context(serving(policy, port, log))]
        rollouts = engine("vllm-server", policy, f"http://127.0.0.1:{port}")
        rollouts._patience = PATIENCE
        trainer = trainer_of(tmp_path / "run", rollouts=rollouts, **MOVING)
        answers, asked = record_answers(trainer), []
        restarting, trained = [], threading.Event()
        ask = rollouts._ask

        def restart():
            os.killpg(servers[0].pid, signal.SIGKILL)
            with serving(policy, port, log):
                trained.wait()

        def spy(address, method, path, *arguments, **options):
            if "generate" in path:
                asked.append(trainer.state.global_step)
                if trainer.state.global_step == 2 and not restarting:
                    restarting.append(threading.Thread(target=restart))
                    restarting[0].start()
                    time.sleep(0.05)
            return ask(address, method, path, *arguments, **options)

        rollouts._ask = spy
        try:
            trainer.train()
            held = rollouts._held(rollouts._servers[0])
        finally:
            trained.set()
            restarting[0].join()
            rollouts.close()
    assert servers[0].returncode == -signal.SIGKILL
    assert trainer.state.global_step == STEPS
    assert len(answers) == STEPS * 16
    assert asked.count(2) > 4, "nothing was asked again"
    assert held.endswith("-3"), "the new server was not brought to the current weights"
    log_of = [row for row in trainer.state.log_history if "objective" in row]
    assert [row["step"] for row in log_of] == [1, 2, 3, 4]
    assert max(row["rollout/logp_difference/max"] for row in log_of) <= 1e-4


def test_a_server_that_stays_away_stops_the_run_with_a_way_on(tmp_path):
    config = RolloutConfig(
        engine="vllm-server", servers=(f"http://127.0.0.1:{free_port()}",), transfer="files", patience=0.5
    )
    from recrl.rl.rollouts.make import make_engine

    with pytest.raises(RolloutError, match=r"rollout\.patience.*recrl serve"):
        make_engine(config, tmp_path, "float32", LONGEST, tmp_path)


def test_a_policy_that_vllm_cannot_compute_is_one_line_before_it_is_trained(tmp_path):
    """A head of 8 dimensions, of which vLLM on a CPU says something only when it is asked."""
    model, tokenizer = policy_and_tokenizer(32)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RolloutError, match=r"vLLM cannot run the policy .*rollout\.engine=transformers"):
        engine("vllm-colocate", tmp_path, "http://127.0.0.1:1")


def test_more_prompts_than_are_read_at_once(policy, tmp_path):
    """Their tokens exceed the 4,096 that vLLM reads in a step; answers are seeded all the same."""
    colocated = engine("vllm-colocate", policy, "http://127.0.0.1:1")
    requests = [Request((*range(50), i), 2, seed=i) for i in range(100)]
    first, again = (colocated.generate(requests, Sampling(max_tokens=8, ends=(1,))) for _ in range(2))
    colocated.close()
    tokens = [[answer.tokens for answer in group] for group in first]
    assert tokens == [[answer.tokens for answer in group] for group in again]
    assert len({group[0] for group in tokens}) > 50


def test_the_engine_in_the_process_leaves_the_trainer_alone(policy, tmp_path):
    """Random numbers, threads and precision."""
    torch.manual_seed(1)
    before = (
        torch.random.get_rng_state(),
        torch.get_num_threads(),
        torch.set_num_threads,
        torch.get_default_dtype(),
    )
    colocated = engine("vllm-colocate", policy, "http://127.0.0.1:1")
    after = (
        torch.random.get_rng_state(),
        torch.get_num_threads(),
        torch.set_num_threads,
        torch.get_default_dtype(),
    )
    colocated.close()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
