"""Training steps on several processes: seconds, memory of each process, and the cost of a checkpoint.

``measure`` launches this module with accelerate, on one process and on several, in turns:
``python -m recrl.benchmarks.scale.training JOB.json``. Each process computes on one thread, so that two
processes have twice the cores of one.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from recrl.launch.cluster.launcher import strategy_file
from recrl.launch.cluster.serve import free_port
from recrl.rl import policy
from recrl.rl.distributed import checkpoints
from recrl.rl.distributed.processes import distributed_state
from recrl.rl.optimizer.settings import DualConfig
from recrl.rl.trainer.settings import TrainConfig
from recrl.rl.trainer.without_vllm import import_trl

from .. import BenchmarkError
from ..memory import memory
from ..speed import workload

PROMPT, ANSWER, GROUP = 200, 32, 8  # tokens, tokens, answers
_WARMUP = 2  # steps
_PATIENCE = 900.0  # seconds


@dataclass(frozen=True)
class Kind:
    """How processes share a step.

    Attributes:
        name: Name in the report.
        strategy: Strategy of :data:`recrl.launch.cluster.launcher.STRATEGIES`.
        processes: Number of processes, on one machine.
        prompts: Number of prompts of a step, over all of them.
    """

    name: str
    strategy: str
    processes: int
    prompts: int


@dataclass(frozen=True)
class Job:
    """Work of a launched process.

    Attributes:
        policy: Folder of the model.
        output: Folder of checkpoints and results.
        steps: Number of steps to take, the warm-up included.
    """

    policy: str
    output: str
    prompts: int
    steps: int


def kinds(processes: int, prompts: int, strategies: Sequence[str]) -> list[Kind]:
    """One process with the work of one and with that of all, and all with each strategy.

    Args:
        prompts: Number of prompts of each process.
    """
    alone = [
        Kind("1 process, its work", "cpu", 1, prompts),
        Kind("1 process, the work of all", "cpu", 1, prompts * processes),
    ]
    return alone + [
        Kind(f"{name} x {processes}", name, processes, prompts * processes) for name in strategies
    ]


def measure(
    chosen: Sequence[Kind],
    model: str,
    steps: int,
    rounds: int,
    scratch: Path,
    on_step: Callable[[int, str], None],
) -> list[dict[str, Any]]:
    """Launch every kind ``rounds`` times, in turns.

    Args:
        model: Name of :data:`recrl.benchmarks.speed.cells.MODELS`.
        steps: Number of measured steps of each launch.
        on_step: Function that is told how many launches are done, and what is next.

    Returns:
        For each kind its fields, ``parameters``, and for each round ``seconds`` (median of a step),
        ``start``, ``peak`` and ``states`` (bytes, largest of the processes), ``checkpoint_seconds`` and
        ``checkpoint_bytes``.

    Raises:
        BenchmarkError: a launch failed.
    """
    parameters = workload.save_policy(model, scratch / "policy", dtype="float32", seed=0)
    records: list[dict[str, Any]] = [
        {**asdict(kind), "parameters": parameters, "rounds": []} for kind in chosen
    ]
    for number in range(rounds):
        for i, (kind, record) in enumerate(zip(chosen, records, strict=True)):
            on_step(number * len(chosen) + i, kind.name)
            output = scratch / f"{number}-{i}"
            job = Job(str(scratch / "policy"), str(output), kind.prompts, _WARMUP + steps)
            record["rounds"].append(_launch(kind, job))
    return records


def _launch(kind: Kind, job: Job) -> dict[str, Any]:
    output = Path(job.output)
    output.mkdir()
    (output / "job.json").write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(strategy_file(kind.strategy)), "--num_processes", str(kind.processes)]
    if kind.processes > 1:
        command += ["--main_process_port", str(free_port())]
    command += ["-m", "recrl.benchmarks.scale.training", str(output / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PATIENCE)
    if done.returncode:
        raise BenchmarkError(f"{kind.name} failed: {done.stderr[-3000:]}")
    ranks = [json.loads(path.read_text()) for path in sorted(output.glob("rank*.json"))]
    manifest = checkpoints.read(output / "checkpoints" / f"checkpoint-{job.steps}")
    return {
        "seconds": max(statistics.median(rank["seconds"][_WARMUP:]) for rank in ranks),
        "start": max(rank["start"] for rank in ranks),
        "peak": max(rank["peak"] for rank in ranks),
        "states": max(rank["states"] for rank in ranks),
        "checkpoint_seconds": manifest.seconds,
        "checkpoint_bytes": sum(size for size, _ in manifest.files.values()),
    }


class _Clock(TrainerCallback):
    """Seconds of each step, and the memory of the process before the first checkpoint."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peak = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.peak = memory("VmHWM")


def main() -> None:
    """Main function of one process."""
    import_trl()
    from recrl.rl.trainer.make import make_trainer

    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(1)
    state = distributed_state()
    model, tokenizer = policy.load(policy.PolicyConfig(model=job.policy))
    tags = workload.catalog()
    engine = workload.engine(tags)
    start = memory("VmRSS")
    trainer = make_trainer(
        model,
        tokenizer,
        workload.prompted_rows(tokenizer, tags, job.steps * job.prompts, PROMPT, 0),
        engine,
        workload.problem(engine.ranges),
        config=TrainConfig(
            steps=job.steps,
            prompts_per_step=job.prompts,
            group_size=GROUP,
            max_answer_tokens=ANSWER,
            save_every=job.steps,
        ),
        rule="lagrangian",
        duals=DualConfig(),
        answer_tokens=ANSWER,
        output=Path(job.output) / "checkpoints",
        seed=0,
    )
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.train()
    found = {"seconds": clock.seconds, "start": start, "peak": clock.peak, "states": states(trainer)}
    (Path(job.output) / f"rank{state.process_index}.json").write_text(json.dumps(found))


def states(trainer: Any) -> int:
    """Bytes of weights and optimiser states that this process holds between two steps."""
    optimizer = getattr(trainer.model_wrapped, "optimizer", None) or trainer.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)  # DeepSpeed's holds another
    # This process holds a part of a weight that is spread over processes (ZeRO-3).
    tensors = [getattr(weight, "ds_tensor", weight.data) for weight in trainer.model.parameters()]
    tensors += [weight.data for group in inner.param_groups for weight in group["params"]]
    for values in inner.state.values():
        tensors += [value for value in values.values() if torch.is_tensor(value)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


if __name__ == "__main__":
    main()
