"""Jobs for a cluster's scheduler, each rendered from one template of ``configs/cluster/``.

``slurm``       a batch script
``kubernetes``  a JobSet

Both start ``recrl launch --resume auto`` on every machine that trains and ``recrl serve`` on those that
sample, and start again what was preempted.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from ..config.schema import ConfigError, RunConfig
from ..signals import PREEMPTED
from .launcher import check_shape

_PORT, _SERVER_PORT = 29500, 8000


@dataclass(frozen=True)
class Job:
    """A run on a cluster.

    Attributes:
        source: Configuration as the machines find it: a file's path there, or a shipped one's name.
        overrides: Overrides, ``key=value``.
        config: Configuration that they make together.
        strategy: See :data:`recrl.launch.cluster.launcher.STRATEGIES`.
        nodes: Machines that train.
        gpus: GPUs of each machine.
        rollout_nodes: Further machines that only sample, on as many vLLM servers as their GPUs have room for.
        grace: Seconds that a step and its checkpoint take at most.
    """

    source: str
    overrides: Sequence[str]
    config: RunConfig
    strategy: str
    nodes: int
    gpus: int
    rollout_nodes: int = 0
    grace: int = 120


def slurm(job: Job) -> str:
    """A batch script.

    Raises:
        ConfigError: what it would start does not fit together.
    """
    return _render(
        "slurm.sh.j2",
        {
            **_shared(job),
            "config": shlex.quote(job.source),
            "overrides": shlex.join(job.overrides),
        },
    )


def kubernetes(job: Job, image: str, claim: str) -> str:
    """The manifest of a JobSet.

    Args:
        image: Container image in which recrl is installed.
        claim: Name of a volume claim that all pods write to; their working directory.

    Raises:
        ConfigError: what it would start does not fit together.
    """
    shared = _shared(job)
    name, overrides = shared["name"], list(job.overrides)
    if job.rollout_nodes:
        pods = range(job.rollout_nodes * shared["servers"])
        servers = ", ".join(f"http://{name}-rollouts-0-{i}.{name}:{_SERVER_PORT}" for i in pods)
        overrides.append(f"rollout.servers=[{servers}]")
    training = ["recrl", "launch", job.source, *overrides, "--strategy", job.strategy]
    training += ["--nodes", str(job.nodes), "--gpus", str(job.gpus), "--address", f"{name}-train-0-0.{name}"]
    training += ["--port", str(_PORT), "--grace", str(job.grace), "--resume", "auto"]
    serving = ["recrl", "serve", job.source, *overrides, "--host", "0.0.0.0", "--expose"]
    serving += ["--port", str(_SERVER_PORT)]
    return _render(
        "kubernetes.yaml.j2",
        {**shared, "image": image, "claim": claim, "training": training, "serving": serving},
    )


def _shared(job: Job) -> dict[str, Any]:
    """Values of both templates."""
    check_shape(job.config, job.strategy, job.nodes, job.gpus)
    each, remote = job.config.rollout.tensor_parallel, job.config.rollout.engine == "vllm-server"
    if job.rollout_nodes < 0 or (job.rollout_nodes and not remote):
        raise ConfigError(
            f"--rollout-nodes {job.rollout_nodes} with rollout.engine={job.config.rollout.engine}: machines "
            "that only sample need rollout=vllm-server"
        )
    if job.rollout_nodes and job.gpus % each:
        raise ConfigError(
            f"--gpus {job.gpus} does not hold whole servers of rollout.tensor_parallel={each}; use a divisor"
        )
    # A name as hosts and Kubernetes take it.
    name = re.sub(r"[^a-z0-9]+", "-", job.config.name.lower()).strip("-")[:40] or "recrl"
    return {
        "name": name,
        "strategy": job.strategy,
        "nodes": job.nodes,
        "gpus": job.gpus,
        "rollout_nodes": job.rollout_nodes,
        "servers": job.gpus // each,
        "tensor_parallel": each,
        "grace": job.grace,
        "port": _PORT,
        "server_port": _SERVER_PORT,
        "preempted": PREEMPTED,
    }


def _render(name: str, values: dict[str, Any]) -> str:
    template = resources.files("recrl.configs") / "cluster" / name
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["json"] = json.dumps
    return environment.from_string(template.read_text()).render(values)
