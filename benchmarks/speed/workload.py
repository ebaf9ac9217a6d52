"""Workload of every kind of a cell: policy, prompts and rewards.

``save_policy``       a model's weights and tokenizer, made once and read by every worker
``prompted_rows``     rows with prompts of exactly so many tokens
``engine``            the rewards
``problem``           what is asked of them
``stock_functions``   the same rewards as functions for TRL

Shoppers and goods are made up; prompts and rewards are those of the tag task.
"""

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from recrl.envs.catalog import Catalog
from recrl.envs.data.calendar import describe
from recrl.envs.tags.prompts import Message, tag_messages
from recrl.rewards import RewardEngine
from recrl.rl import policy
from recrl.rl.optimizer.problem import Problem
from recrl.rl.policy.tiny import tiny_tokenizer

from .. import BenchmarkError
from .cells import MODELS, PACKAGED, Model

DTYPES: dict[str, policy.Dtype] = {"cpu": "float32", "cuda": "bfloat16"}
"""Dtype of weights and arithmetic, by device."""
REWARDS = ("recall", "novelty", "duplicates", "validity", "length")
OBJECTIVE, CONSTRAINTS = "recall", ("novelty >= 0.3 (mean)", "duplicates <= 0.1 (mean)")
SLOTS = 10
COLUMNS = ("target", "lookback")
"""Columns of a row, besides its prompt, that these rewards read."""

# A quality, an origin and a kind of goods make a tag.
_WORDS = (
    "fresh frozen dried smoked organic salted roasted sliced canned ripe sweet plain",
    "Alpine Baltic Dutch Greek Iberian",
    "almonds apples apricots beans beef berries carrots cheese cherries cod corn figs ham herring lentils "
    "mushrooms nuts olives onions peas peppers plums pumpkin salmon tomatoes",
)
_LOOKBACK = 100  # tags
# Most pieces besides the tags; the made-up texts have fewer.
_PIECES = 1000
# Words that fill a prompt up when its last tag would not fit.
_FILLER, _MOST_FILLERS, _SPARE_TAGS = "a", 40, 20


def catalog() -> Catalog:
    """1,500 made-up tags."""
    return Catalog([" ".join(words) for words in itertools.product(*map(str.split, _WORDS))])


def save_policy(name: str, folder: Path, *, dtype: policy.Dtype, seed: int) -> int:
    """Make a policy of :data:`MODELS` and save it with its tokenizer.

    Args:
        name: Name of the model.
        folder: Folder, which is created.
        dtype: Dtype ``float32`` or ``bfloat16``.
        seed: Seed of random weights.

    Returns:
        Number of parameters.

    Raises:
        BenchmarkError: the package of ``smollm2`` is missing.
    """
    size = MODELS[name]
    model: Any
    tokenizer: Any
    if size is None:
        try:
            model, tokenizer = policy.load(policy.PolicyConfig(model=PACKAGED, dtype=dtype))
        except ImportError as error:
            raise BenchmarkError(f"--model, --sizes: {error}") from error
    else:
        tags = catalog()
        tokenizer = tiny_tokenizer(tags.tags, _texts(tags), _PIECES)
        model = _random_model(size, tokenizer, seed).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def _random_model(size: Model, tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen3ForCausalLM:
    shape = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads or size.heads,
        head_dim=size.head_dim,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(shape)


def prompted_rows(
    tokenizer: PreTrainedTokenizerBase, tags: Catalog, count: int, tokens: int, seed: int
) -> list[dict[str, Any]]:
    """Rows with a prompt of their own and the columns that the rewards read.

    Args:
        tokenizer: Tokenizer that counts the tokens, chat template included.
        tags: Tags that the shoppers buy.
        count: Number of rows.
        tokens: Number of tokens of every prompt.
        seed: Seed of the shoppers.

    Raises:
        BenchmarkError: no prompt has so few tokens, or so many.
    """
    rng = np.random.default_rng(seed)
    return [_row(tokenizer, tags, tokens, rng) for _ in range(count)]


def _row(
    tokenizer: PreTrainedTokenizerBase, tags: Catalog, tokens: int, rng: np.random.Generator
) -> dict[str, Any]:
    episode = _episode(tags, rng)

    def length(bought: int, fillers: int) -> int:
        return _count(tokenizer, _messages(episode, tags, bought, fillers))

    low, high = 0, len(episode["history"])
    while low < high:  # the most tags that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(middle, 0) <= tokens else (low, middle - 1)
    for bought in range(low, max(-1, low - _SPARE_TAGS), -1):
        for fillers in range(_MOST_FILLERS):
            if (found := length(bought, fillers)) == tokens:
                return {
                    "prompt": _messages(episode, tags, bought, fillers),
                    **{name: episode[name] for name in COLUMNS},
                }
            if found > tokens:
                break
    raise BenchmarkError(
        f"--prompt-tokens: no prompt of exactly {tokens} tokens; one without history has {length(0, 0)}, one "
        f"with all {len(tags)} tags {length(len(tags), 0)}: choose a number between them"
    )


def _episode(tags: Catalog, rng: np.random.Generator) -> dict[str, Any]:
    """A random shopper, who bought every tag once or more, in a random week."""
    history = rng.permutation(len(tags)).tolist()
    monday = dt.date(2024, 1, 1) + dt.timedelta(weeks=int(rng.integers(52)))
    return {
        "calendar": describe(monday, 4),
        "profile": "",
        "history": history,
        "history_weight": np.sort(rng.geometric(0.1, len(history)))[::-1].astype(float).tolist(),
        "lookback": sorted(history[:_LOOKBACK]),
        "target": sorted(rng.choice(len(tags), SLOTS, replace=False).tolist()),
    }


def _messages(episode: dict[str, Any], tags: Catalog, bought: int, fillers: int) -> list[Message]:
    filled = {**episode, "profile": " ".join([_FILLER] * fillers)}
    return tag_messages(filled, tags, SLOTS, max_history=bought)


def _count(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> int:
    return len(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def _texts(tags: Catalog) -> list[str]:
    """Texts from which the tokenizer learns its pieces."""
    rng = np.random.default_rng(0)
    messages = [_messages(_episode(tags, rng), tags, bought=100, fillers=3) for _ in range(50)]
    return ["\n".join(f"{m['role']}\n{m['content']}" for m in found) for found in messages]


def engine(tags: Catalog, names: tuple[str, ...] = REWARDS) -> RewardEngine:
    """The rewards, as recrl's trainer calls them."""
    return RewardEngine(
        names, resources={"catalog": tags, "slots": SLOTS}, columns=[*COLUMNS, "completion_ids"]
    )


def problem(ranges: dict[str, tuple[float, float]]) -> Problem:
    """Problem of recall under two constraints."""
    return Problem.build(OBJECTIVE, CONSTRAINTS, ranges)


def stock_functions(tags: Catalog, group_size: int) -> list[Any]:
    """The same rewards as TRL calls them: one function each, which parses the answers itself."""
    return [_stock_function(name, engine(tags, (name,)), group_size) for name in REWARDS]


def _stock_function(name: str, single: RewardEngine, group_size: int) -> Any:
    def score(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        known = {name: columns[name] for name in (*COLUMNS, "completion_ids")}
        return single.score(prompts, completions, known, group_size)[:, 0].tolist()

    score.__name__ = name
    return score
