"""Kinds that are compared, and the cells on which they are.

``Kind``      one way to make a step: stock TRL, or ours
``Sampler``   one way to sample answers alone
``Model``     the size of a policy
``Cell``      one workload: a model, the length of prompts and answers, the group's size, and the kinds, all
              of training steps or all samplers
``Settings``  how every cell is run
``plan``      the cells of a ``Sweep``

Lengths are tokens.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from recrl.rl.rollouts.settings import Engine

from .. import BenchmarkError


@dataclass(frozen=True)
class Kind:
    """One way to make a training step.

    Attributes:
        text: Description for the report.
        stock: Whether it is TRL's own trainer; else ours.
        options: Options of TRL's ``GRPOConfig`` or our ``TrainConfig``; all else is its default.
    """

    text: str
    stock: bool
    options: Mapping[str, Any] = field(default_factory=dict)


STOCK, ROWS, OURS = "trl", "rows", "shared"
NO_CHECKPOINT, CHECKPOINT, FLEX = "trl-nocheckpoint", "shared-checkpoint", "shared-flex"
KINDS = {
    STOCK: Kind("TRL's `GRPOTrainer` as it comes: gradient checkpointing is on", True),
    NO_CHECKPOINT: Kind("`trl` without gradient checkpointing", True, {"gradient_checkpointing": False}),
    ROWS: Kind(
        "recrl with `prefix_sharing: off`: each answer behind its own copy of the prompt, only the answer's "
        "positions projected to the vocabulary, no gradient checkpointing",
        False,
        {"prefix_sharing": "off"},
    ),
    OURS: Kind("recrl as it comes: each prompt is read once", False),
    CHECKPOINT: Kind("`shared` with gradient checkpointing", False, {"gradient_checkpointing": True}),
    FLEX: Kind("`shared` with FlexAttention", False, {"prefix_attention": "flex"}),
}


@dataclass(frozen=True)
class Sampler:
    """One way to sample answers.

    Attributes:
        text: Description for the report.
        engine: Name of the engine in ``rollout.engine``.
        options: Options of ``RolloutConfig``; all else is its default.
    """

    text: str
    engine: Engine
    options: Mapping[str, Any] = field(default_factory=dict)


EXPANSION, PREFILL = "expansion", "prefill"
SAMPLERS = {
    EXPANSION: Sampler(
        "`generate` of transformers on G copies of each prompt, as TRL calls it", "transformers"
    ),
    PREFILL: Sampler("`rollout: transformers`: recrl's own sampler, each prompt read once", "transformers"),
    "colocate": Sampler("`rollout: vllm-colocate`", "vllm-colocate"),
    "colocate-uncached": Sampler(
        "`colocate` without prefix caching", "vllm-colocate", {"prefix_caching": False}
    ),
    "server": Sampler("`rollout: vllm-server`, one server on this machine", "vllm-server"),
    "server-uncached": Sampler("`server` without prefix caching", "vllm-server", {"prefix_caching": False}),
}


@dataclass(frozen=True)
class Model:
    """A policy's size.

    Attributes:
        vocabulary: Width of the logits; tokens that the tokenizer does not know decode to nothing.
        kv_heads: Number of key and value heads; ``None`` for as many as there are heads.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    head_dim: int
    vocabulary: int = 2176
    kv_heads: int | None = None


PACKAGED = "smollm2"
MODELS: dict[str, Model | None] = {
    "quick": Model(64, 2, 2, 192, 32),
    "1M": Model(128, 4, 4, 384, 32),
    "4M": Model(256, 4, 4, 768, 64),
    "15M": Model(512, 4, 4, 1536, 128),
    PACKAGED: None,  # SmolLM2-135M-Instruct from its package, see `recrl.rl.policy.loading`
    "qwen3-0.6b": Model(1024, 28, 16, 3072, 128, 151_936, 8),
}
"""Policies by name: Qwen3 decoders with random weights, and a real model."""


@dataclass(frozen=True)
class Cell:
    """One workload, run by each kind."""

    model: str
    prompt: int
    group_size: int
    answer: int
    groups: int
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model}, P = {self.prompt}, G = {self.group_size}"

    @property
    def workload(self) -> tuple[Any, ...]:
        """The cell without its kinds."""
        return self.model, self.prompt, self.group_size, self.answer, self.groups, self.samples

    @property
    def samples(self) -> bool:
        """Whether answers are sampled and nothing is trained."""
        return self.kinds[0] in SAMPLERS

    @property
    def token_ratio(self) -> float:
        """Tokens read by full rows, over tokens read when the prompt is read once: ``G(P+C) / (P+GC)``."""
        p, g, c = self.prompt, self.group_size, self.answer
        return g * (p + c) / (p + g * c)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "kinds": list(self.kinds)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Cell":
        return cls(**{**found, "kinds": tuple(found["kinds"])})


@dataclass(frozen=True)
class Settings:
    """Settings with which every cell is run."""

    rounds: int = 5
    """Measured steps of each kind."""
    warmup: int = 2
    """Steps of each kind before them."""
    seed: int = 0
    """Seed of weights, prompts and sampling."""
    device: str = "cpu"
    """Device: ``cpu`` (fp32) or ``cuda`` (bf16)."""
    threads: int | None = None
    """Threads of torch in each worker; ``None`` for as many as there are cores."""


@dataclass(frozen=True)
class Sweep:
    """Choice of cells: ``model`` at every prompt length and group size, ``sizes`` at the headline cell's.

    A cell has ``groups`` groups a step; ``smollm2`` among ``sizes`` has one: its steps take a CPU minutes.
    """

    model: str = "4M"
    prompts: tuple[int, ...] = (200, 600, 1500)
    group_sizes: tuple[int, ...] = (4, 8, 16)
    answer: int = 64
    groups: int = 2
    sizes: tuple[str, ...] = ("1M", "15M")
    kinds: tuple[str, ...] = (STOCK, ROWS, OURS)
    headline_kinds: tuple[str, ...] = (NO_CHECKPOINT, CHECKPOINT)
    """Further kinds of the headline cell, and of that of the longest prompts with the same group size."""
    samples: bool = False
    """Whether kinds are samplers, and nothing is trained."""

    @property
    def headline(self) -> tuple[int, int]:
        """The middle prompt length and group size."""
        prompts, sizes = sorted(self.prompts), sorted(self.group_sizes)
        return prompts[len(prompts) // 2], sizes[len(sizes) // 2]


ROLLOUTS = Sweep(group_sizes=(8,), sizes=("smollm2",), kinds=tuple(SAMPLERS), headline_kinds=(), samples=True)
ON_GPU = Sweep("qwen3-0.6b", sizes=("smollm2",), kinds=(STOCK, ROWS, OURS, FLEX))
QUICK = Sweep("quick", (120,), (4,), 16, 2, (), headline_kinds=())
QUICK_ROLLOUTS = replace(QUICK, kinds=tuple(SAMPLERS), samples=True)


def plan(sweep: Sweep) -> list[Cell]:
    """The cells of a sweep, the headline cell first.

    Raises:
        BenchmarkError: an unknown model or kind, or a number that cannot be.
    """
    _known("--model, --sizes", (sweep.model, *sweep.sizes), MODELS)
    _known("--kinds", sweep.kinds, SAMPLERS if sweep.samples else KINDS)
    _at_least("--prompt-tokens", sweep.prompts, 1)
    _at_least("--group-sizes", sweep.group_sizes, 2)
    _at_least("--answer-tokens", [sweep.answer], 1)
    _at_least("--groups", [sweep.groups], 1)
    headline = sweep.headline
    swept = itertools.product(sweep.prompts, sweep.group_sizes)
    points = [(sweep.model, *point) for point in [headline, *(found for found in swept if found != headline)]]
    points += [(name, *headline) for name in sweep.sizes if name != sweep.model]
    deep = [(sweep.model, *headline), (sweep.model, max(sweep.prompts), headline[1])]
    more = tuple(kind for kind in sweep.headline_kinds if kind not in sweep.kinds)
    return [
        Cell(
            model,
            prompt,
            group_size,
            sweep.answer,
            1 if model == PACKAGED != sweep.model else sweep.groups,
            sweep.kinds + (more if (model, prompt, group_size) in deep else ()),
        )
        for model, prompt, group_size in points
    ]


def _known(option: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise BenchmarkError(f"{option}: {name!r} is unknown; known: {', '.join(known)}")
    if not names:
        raise BenchmarkError(f"{option}: nothing is chosen; known: {', '.join(known)}")


def _at_least(option: str, values: Sequence[int], least: int) -> None:
    if not values or min(values) < least:
        raise BenchmarkError(f"{option}: {list(values)}; give numbers of at least {least}")
