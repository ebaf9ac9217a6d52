"""Messages between a worker and its parent."""

from dataclasses import dataclass
from pathlib import Path

from .cells import Cell

READY, STEP, OUT_OF_MEMORY, FAULT, GO = "ready", "step", "out of memory", "fault", "go"
LOG = "log"


@dataclass(frozen=True)
class Job:
    """Work of a worker."""

    kind: str
    cell: Cell
    policy: Path
    """Folder of weights and tokenizer."""
    output: Path
    """Scratch folder of this worker; ``LOG`` in it holds what it printed."""
    steps: int
    seed: int
    device: str
    threads: int


@dataclass(frozen=True)
class Start:
    """A worker before its first step."""

    memory: int
    """Bytes that it holds in main memory, libraries and model included."""


@dataclass(frozen=True)
class Step:
    """One step, in seconds unless it says otherwise."""

    whole: float
    """Time from its beginning to after the optimiser's step."""
    rollout: float
    """Time of generation alone."""
    inputs: float
    """Time of generation, rewards, advantages and, if needed, old and reference log-probabilities."""
    forward_backward: float
    answer_tokens: float
    """Mean length of the answers."""
    peak: int
    """Most bytes in main memory so far, as the operating system counts."""
    device_peak: int | None
    """Most bytes that tensors took on the GPU so far."""
    full_rows: str | None
    """Reason why the forward passes read a prompt once for each answer; None when they read it once."""
    parts: dict[str, float]
    """Times by recrl's trainer, by the names of its metrics ``time/*``; empty for TRL's."""


@dataclass(frozen=True)
class Sampled:
    """The answers of one step without training, in seconds."""

    hand_over: float
    """Time to hand the policy's weights to the engine; 0 if it is the policy itself."""
    sampling: float
    """Time from the prompts' token ids to the answers'."""
