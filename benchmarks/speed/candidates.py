"""Candidates whose context is read once, against whole texts.

    python -m recrl.benchmarks.speed.candidates

Both ways score the same made-up texts with the same model, in turns in one process; a figure is the ratio of
their medians, with an interval over the rounds.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from recrl.envs.storage.sealed import write
from recrl.rl.reward_model.scoring import Texts, can_share, score

from .measure import machine

_VOCABULARY = 1000


def compare(
    *,
    context: int,
    candidates: int,
    tokens: int,
    contexts: int,
    hidden: int,
    layers: int,
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """Seconds of both ways, with and without gradients, their ratio, and how far their scores are apart.

    Args:
        context: Tokens that candidates share; ``tokens``: those of a candidate.
        contexts: Contexts at once.
        hidden, layers: Size of the model, which has random weights.
        rounds: Measured rounds, behind one that is not.
    """
    torch.manual_seed(seed)
    model = Qwen3ForSequenceClassification(
        Qwen3Config(
            vocab_size=_VOCABULARY,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=hidden // 4,
            num_labels=1,
            pad_token_id=0,
        )
    ).eval()
    assert can_share(model, context + tokens)
    draw = torch.Generator().manual_seed(seed)
    texts = [
        Texts(
            torch.randint(1, _VOCABULARY, (context,), generator=draw).tolist(),
            torch.randint(1, _VOCABULARY, (candidates, tokens), generator=draw).tolist(),
        )
        for _ in range(contexts)
    ]

    def scored(shared: bool) -> torch.Tensor:
        with torch.no_grad():
            return score(model, texts, shared=shared)

    def learned(shared: bool) -> torch.Tensor:
        found = score(model, texts, shared=shared)
        found.square().sum().backward()
        model.zero_grad(set_to_none=True)
        return found

    apart = (scored(True) - scored(False)).abs().max().item()
    return {
        "settings": {
            **{"context": context, "candidates": candidates, "tokens": tokens, "contexts": contexts},
            **{"hidden": hidden, "layers": layers, "parameters": model.num_parameters()},
            **{"rounds": rounds, "seed": seed, "threads": torch.get_num_threads()},
        },
        "largest difference": apart,
        "tokens not read": texts[0].saved,
        "scoring": _timed(scored, rounds),
        "forward and backward": _timed(learned, rounds),
        "machine": machine("cpu"),
    }


def _timed(way: Callable[[bool], Any], rounds: int) -> dict[str, Any]:
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds + 1):
        for shared in (True, False):
            began = time.perf_counter()
            way(shared)
            if number:
                seconds[shared].append(time.perf_counter() - began)
    ratios = np.array(seconds[False]) / np.array(seconds[True])
    return {
        "shared, s": statistics.median(seconds[True]),
        "whole texts, s": statistics.median(seconds[False]),
        "ratio": statistics.median(seconds[False]) / statistics.median(seconds[True]),
        "ratios of rounds": [float(ratios.min()), float(ratios.max())],
    }


def main(
    output: Annotated[Path, typer.Option(help="File of the figures.")] = Path("runs/candidates.json"),
    context: Annotated[int, typer.Option(min=1, help="Tokens that candidates share.")] = 600,
    candidates: Annotated[int, typer.Option(min=2, help="Candidates of a context.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a candidate.")] = 24,
    contexts: Annotated[int, typer.Option(min=1, help="Contexts at once.")] = 4,
    hidden: Annotated[int, typer.Option(min=8, help="Width of the model.")] = 256,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 7,
    seed: Annotated[int, typer.Option(help="Seed of weights and texts.")] = 0,
) -> None:
    """Score candidates both ways."""
    sizes = {"context": context, "candidates": candidates, "tokens": tokens, "contexts": contexts}
    found = compare(**sizes, hidden=hidden, layers=layers, rounds=rounds, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    write(output, json.dumps(found, indent=1))
    for way in ("scoring", "forward and backward"):
        low, high = found[way]["ratios of rounds"]
        typer.echo(f"{way}: {found[way]['ratio']:.2f}x [{low:.2f}, {high:.2f}] of whole texts")
    typer.echo(f"scores differ by {found['largest difference']:.1e} at most; written: {output}")


if __name__ == "__main__":
    typer.run(main)
