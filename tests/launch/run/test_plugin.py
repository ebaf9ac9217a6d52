"""A package of rewards that pip installed is found, used in a constraint, saved and resumed."""

import signal
import time

import plugins
import pytest
import yaml
from places import ROOT
from safetensors.numpy import load_file
from whole_runs import SMALL, finished, lines, recrl

from recrl.launch.signals import PREEMPTED

PLUGIN = ROOT / "examples" / "reward-plugin"
STEPS = 6


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return plugins.installed(PLUGIN, tmp_path_factory.mktemp("plugin"))


def test_a_package_of_rewards_is_listed_with_where_it_comes_from(environment):
    listed = " ".join(finished("rewards", "list", environment=environment, anew=True).split())
    assert "fresh_food" in listed
    assert "entry point" in listed
    shown = finished("rewards", "show", "wide_shelf", environment=environment)
    for word in ("0 to 1", "memory", "often", "Share of an answer's tags", 'constraints: ["wide_shelf >= '):
        assert word in shown


@pytest.mark.slow
def test_a_packages_reward_in_a_constraint_is_saved_and_resumed_bit_for_bit(
    environment, tmp_path, cache, panel_task
):
    """Stopped by SIGTERM and resumed, against a run that nothing stopped; one reward has a memory."""
    config = {
        **SMALL,
        "data": {"cache": str(cache)},
        "rewards": [
            "recall",
            "fresh_food",
            {"name": "wide_shelf", "params": {"memory": 40, "often": 0.0}},
            {"name": "shop", "sum": {"fresh_food": 0.5, "wide_shelf": 0.5}},
        ],
        "optimizer": {
            "objective": "recall",
            "constraints": ["fresh_food >= 0.3 (mean)", "wide_shelf >= 0.9 (mean)"],
        },
        "train": {**SMALL["train"], "steps": STEPS, "save_every": 100},
        "evaluation": {"max_episodes": 4, "answers_per_prompt": 2, "hold": "off"},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finished("train", str(path), f"output={whole}", environment=environment, anew=True)
    process = recrl("train", str(path), f"output={stopped}", environment=environment)
    until = time.monotonic() + 300
    while not ((stopped / "metrics.jsonl").exists() and len(lines(stopped)) >= 2):
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED, output[-4000:]
    assert len(lines(stopped)) < STEPS
    finished(
        "train", str(stopped / "config.yaml"), "--resume", "auto", environment=environment
    )  # as the output says

    one, other = (load_file(run / "policy" / "model.safetensors") for run in (whole, stopped))
    assert all((one[name] == other[name]).all() for name in one)
    for before, after in zip(lines(whole), lines(stopped), strict=True):
        kept = [name for name in before if name.startswith(("rewards/", "constraint/", "objective"))]
        assert any(name.startswith("constraint/wide_shelf") for name in kept)
        assert "rewards/shop/mean" in kept
        assert {name: before[name] for name in kept} == {name: after[name] for name in kept}
    # The memory counts: its first batch found the shelf empty.
    wide = [line["rewards/wide_shelf/mean"] for line in lines(whole)]
    assert wide[-1] < wide[0] - 0.2
