"""Jobs for a cluster's scheduler: what they would start, held against the schedulers' own rules."""

import shlex
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from recrl.launch.cli import app
from recrl.launch.config.schema import ConfigError

SHAPE = ("--strategy", "zero3", "--nodes", "2", "--gpus", "8", "train.prompts_per_step=64")
WITH_SERVERS = (*SHAPE, "rollout=vllm-server", "rollout.tensor_parallel=4", "--rollout-nodes", "3")
FLOOR = "optimizer.constraints=[novelty >= 0.3 (mean)]"  # has to be quoted in a shell


def rendered(*arguments):
    found = CliRunner().invoke(app, ["launch", "demo", *arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


# Stands in for Slurm: two programs that say what they were called with. A training lasts until all servers,
# which start beside it, were called.
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
[ "$1" = show ] && printf 'n%s\\n' 0 1 2 3 4 | head -"$NODES"
exit 0
"""
SRUN = """#!/bin/bash
printf '%s\\n' "srun $(printf '%q ' "$@")" >> "$CALLS"
case "$*" in
  *"recrl launch"*)
    until [ "$(grep -c 'recrl serve' "$CALLS")" -ge "${SERVERS:-0}" ]; do sleep 0.05; done
    sleep "${TRAINING:-0}" & trap 'kill $!; exit "${STOPPED:-75}"' TERM; wait $!; exit "${CODE:-0}" ;;
  *) exec sleep 60 ;;
esac
"""


@pytest.fixture
def slurm(tmp_path):
    """Runs a script as Slurm's first machine would; returns its process and a reader of the calls."""
    calls = tmp_path / "calls"
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(script, nodes, **environment):
        path = tmp_path / "job.sh"
        path.write_text(script)
        process = subprocess.Popen(
            ["bash", str(path)],
            env={
                "PATH": f"{tmp_path}:/usr/bin:/bin",
                "CALLS": str(calls),
                "NODES": str(nodes),
                "SLURM_JOB_NODELIST": "n[0-4]",
                "SLURM_JOB_ID": "7",
                **environment,
            },
        )
        return process, lambda: calls.read_text().splitlines() if calls.exists() else []

    return start


@pytest.mark.parametrize("arguments", [SHAPE, WITH_SERVERS], ids=["training", "with servers"])
def test_the_script_is_bash_that_a_checker_has_nothing_to_say_of(arguments, tmp_path):
    script = rendered("--slurm", *arguments, FLOOR)
    path = tmp_path / "job.sh"
    path.write_text(script)
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True).stderr == ""
    settings = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert f"#SBATCH --nodes={5 if '--rollout-nodes' in arguments else 2}" in settings
    assert "#SBATCH --gpus-per-node=8" in settings
    assert "{{" not in script
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-s", "bash", str(path)], check=True)


def test_slurm_starts_servers_and_training_on_machines_of_their_own(slurm):
    process, calls = slurm(rendered("--slurm", *WITH_SERVERS, FLOOR), 5, SERVERS="6")
    assert process.wait(30) == 0
    called = [shlex.split(call) for call in calls()]
    serving = [words for words in called if "serve" in words]
    (training,) = [words for words in called if "launch" in words]
    assert sorted(word for words in serving for word in words if word.startswith("--nodelist")) == [
        f"--nodelist=n{host}" for host in (2, 2, 3, 3, 4, 4)
    ]
    assert all("--gpus=4" in words and "--expose" in words for words in serving)
    assert {words[-1] for words in serving} == {"8000", "8001"}
    assert "--nodelist=n0,n1" in training
    assert "--nodes 2 --gpus 8 --address n0" in " ".join(training)
    assert training[-2:] == ["--resume", "auto"]
    servers = ",".join(f"http://n{host}:{port}" for host in (2, 3, 4) for port in (8000, 8001))
    for words in (*serving, training):
        assert f"rollout.servers=[{servers}]" in words
        assert FLOOR in words


@pytest.mark.parametrize("stopped", ["75", "143"], ids=["it said so", "Python had not begun"])
def test_a_preempted_slurm_job_is_queued_again_and_a_failed_one_is_not(slurm, stopped):
    script = rendered("--slurm", *SHAPE)
    process, calls = slurm(script, 2, TRAINING="60", STOPPED=stopped)
    for _ in range(200):
        if any("recrl launch" in call for call in calls()):
            break
        subprocess.run(["sleep", "0.05"], check=True)
    process.terminate()
    assert process.wait(20) == 75
    assert "scontrol requeue 7" in calls()

    before = len(calls())
    for code in (1, 143):
        process, calls = slurm(script, 2, CODE=str(code))
        assert process.wait(20) == code
    assert "scontrol requeue 7" not in calls()[before:]


@pytest.mark.parametrize("arguments", [SHAPE, WITH_SERVERS], ids=["training", "with servers"])
def test_the_manifest_holds_jobs_that_kubernetes_takes(arguments):
    manifest = yaml.safe_load(rendered("--kubernetes", "--image", "registry/recrl:1", *arguments, FLOOR))
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    jobs = {job["name"]: job["template"] for job in manifest["spec"]["replicatedJobs"]}
    assert list(jobs) == (["train", "rollouts"] if "--rollout-nodes" in arguments else ["train"])
    for name, template in jobs.items():
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, **template}
        kubernetes_validate.validate(job, "1.31", strict=True)
    (container,) = jobs["train"]["spec"]["template"]["spec"]["containers"]
    command = container["command"]
    assert command[:3] == ["recrl", "launch", "demo"]
    assert FLOOR in command
    assert command[command.index("--address") + 1] == "demo-train-0-0.demo"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    if "rollouts" in jobs:
        spec = jobs["rollouts"]["spec"]
        assert spec["completions"] == 6  # two servers of four GPUs on each of three machines
        (server,) = spec["template"]["spec"]["containers"]
        assert server["resources"]["limits"] == {"nvidia.com/gpu": 4}
        (servers,) = [word for word in command if word.startswith("rollout.servers=")]
        assert servers.count("http://demo-rollouts-0-") == 6
        assert servers in server["command"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SHAPE[:-1], "train.prompts_per_step=24"), "a multiple of 16, such as 32"),
        ((*SHAPE, "--rollout-nodes", "1"), "need rollout=vllm-server"),
        ((*WITH_SERVERS, "rollout.tensor_parallel=3"), "does not hold whole servers"),
        (("--nodes", "2"), "need --gpus"),
    ],
)
@pytest.mark.parametrize("scheduler", ["--slurm", "--kubernetes"])
def test_what_cannot_be_is_refused(scheduler, arguments, message):
    with pytest.raises(ConfigError, match=message):
        rendered(scheduler, *arguments)
