"""What a person waits for: the help, lists, and mistakes are answered without the packages that train.

Of time nothing is asserted; the packages are where it goes.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

import recrl.rewards
from recrl.rl import policy

HEAVY = (
    *("accelerate", "datasets", "deepspeed", "torch", "transformers", "trl", "vllm"),
    *("matplotlib", "polars", "pyarrow", "scipy", "sklearn"),
)

# Arguments -> exit code, and a part of what is said.
COMMANDS = {
    ("--help",): (0, "Train a policy under constraints"),
    ("--version",): (0, "recrl 0.1.0"),
    ("train", "--help"): (0, "YAML file, or the name of a shipped one"),
    ("bench",): (0, "benchmarks: agents, conflict, hybrid, offers, paper, rewards, rules, scale, simulator"),
    ("train", "broken.yaml"): (2, "'broken.yaml' is no YAML that a configuration can be"),
    ("train", "nowhere.yaml"): (2, "no configuration 'nowhere.yaml'"),
    ("train", "demo", "train.stepz=5"): (2, "unknown setting 'train.stepz'; did you mean 'steps'?"),
    ("train", "demo", "train.steps=0"): (2, "train.steps=0: must be a whole number from 1 to 10,000,000"),
    ("train", "demo", "train.prompts_per_step=3", "train.micro_batches=5"): (2, "do not split into whole"),
    ("train", "demo", "optimizer.rule=lagrange"): (2, "did you mean 'lagrangian'?"),
    ("train", "demo", "optimizer.constraints=[novelty over 3]"): (2, "'novelty over 3' does not parse"),
    ("train", "demo", "rewards=[recal]"): (2, "unknown reward 'recal'; did you mean 'recall'?"),
    ("train", "demo", "optimizer.objective=recal"): (2, "unknown reward 'recal'; did you mean 'recall'?"),
    ("train", "demo", "optimizer.constraints=[novelty >= 3 (mean)]"): (2, "3 is outside [0, 1]"),
    ("train", "demo", "optimizer.objective=duplicates"): (2, "lower is better"),
    ("train", "demo", "optimizer.credit=tag", "optimizer.rule=gate"): (2, "credit=tag does not work with"),
    ("train", "no-such-run.yaml", "--resume", "auto"): (2, "no configuration 'no-such-run.yaml'"),
    ("eval", "nowhere"): (2, "holds no trained policy"),
    ("recommend", "nowhere"): (2, "nowhere is no run folder: it holds no config.yaml"),
    ("recommend", "nowhere", "--at", "soon"): (2, "--at soon: no day; write it as 2026-11-30"),
    ("recommend", "nowhere", "--which", "best"): (2, "--which best: unknown; use trained or warm"),
    ("explain", "nowhere", "--user", "1", "--item", "yogurt"): (2, "nowhere is no run folder"),
    ("explain", "nowhere", "--user", "1", "--item", "yogurt", "--at", "soon"): (2, "--at soon: no day"),
    ("ab", "runs/nowhere", "quota"): (2, "runs/nowhere is no run folder: it holds no config.yaml"),
    ("agents", "trace", "nowhere", "--user", "1"): (2, "nowhere is no run folder"),
    ("export", "nowhere"): (2, "nowhere is no run folder: it holds no config.yaml"),
    ("serve", "demo", "--which", "trained", "output=nowhere"): (2, "nowhere is no run folder"),
    ("serve", "demo", "rollout.engine=vlm-server"): (2, "rollout.engine='vlm-server'"),
    ("serve", "demo", "--limit", "3"): (2, "--users, --at and --limit are for a finished run"),
    ("data", "build", "demo", "data.protocol.window=0"): (2, "data.protocol.window=0: must be a whole"),
    ("rewards", "check", "recal"): (2, "unknown reward 'recal'; did you mean 'recall'?"),
    ("rewards", "list"): (0, "Recall@K"),
    ("rewards", "show", "recall"): (0, "name     recall"),
    ("launch", "demo", "--dry-run", "--strategy", "cpu", "--gpus", "1"): (0, "accelerate.commands.launch"),
    ("launch", "demo", "--dry-run", "--strategy", "zero9"): (2, "--strategy 'zero9' is unknown"),
    ("launch", "demo", "--slurm", "--gpus", "2"): (0, "#SBATCH --nodes=1"),
}

# One process for all: what the last command has not imported, none before it has.
SCRIPT = """
import contextlib, io, json, sys
from recrl.launch.cli import main

heavy, commands = json.load(sys.stdin)
found = []
for command in commands:
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(command)
        except SystemExit as end:
            code = end.code or 0
    found.append((code, said.getvalue(), sorted(set(heavy) & set(sys.modules))))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("startup")
    (folder / "broken.yaml").write_text("name: [unfinished")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([HEAVY, list(COMMANDS)]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_answer_without_heavy_packages(command, answers):
    (code, text), (found_code, said, heavy) = COMMANDS[command], answers[command]
    assert (found_code, text in said) == (code, True), said
    assert heavy == []


@pytest.mark.parametrize("package", [name for name in HEAVY if name != "vllm"])
def test_what_is_not_imported_could_be(package):
    """Else a misspelt name above would pass whatever is imported."""
    assert find_spec(package) is not None


@pytest.mark.parametrize("package", [recrl, recrl.rewards, policy], ids=lambda package: package.__name__)
def test_public_names_are_there_when_they_are_asked_for(package):
    for name in package.__all__:
        assert getattr(package, name).__name__ == name or name == "Dtype"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
