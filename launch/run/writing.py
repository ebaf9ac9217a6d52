"""What writes the answers of a finished run: its policy on transformers, or on vLLM in this process.

``writer``     the one that ``rollout.engine`` names
``whole``      folder of the whole model, which engines need
``longest``    tokens of a prompt and an answer that an engine makes room for
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...envs.task import Row, Task
from ...rl import policy
from ...rl.decoding.forms import deployed_length
from ...rl.decoding.writing import Writer
from ...rl.policy.folders import holds_adapters
from ...rl.policy.loading import placed
from ...rl.trainer.preconditions import longest_prompt
from ..config.schema import RunConfig


def writer(
    config: RunConfig, folder: Path, task: Task, rows: Sequence[Row]
) -> tuple[PreTrainedModel | Writer, PreTrainedTokenizerBase]:
    """What writes, and the tokenizer.

    Args:
        folder: Folder of the policy.
        rows: Rows that are answered, or some of them: an engine has room for prompts twice as long.

    Raises:
        RolloutError: vLLM is not installed, or refuses the policy.
    """
    if config.rollout.engine != "vllm-colocate":
        model, tokenizer = policy.load(config.policy.at(folder))
        return placed(model, config.policy), tokenizer
    from ...rl.evaluation.engine import EngineWriter

    model, tokenizer = policy.load(config.policy.whole(folder))
    vocabulary = int(model.config.get_text_config().vocab_size)
    room = deployed_length(task.form, tokenizer, vocabulary, config.evaluation.decoding)
    with TemporaryDirectory(prefix="recrl-whole-") as scratch:
        place = whole(folder, model, tokenizer, Path(scratch))
        options = config.rollout.engine_options(config.policy.dtype, longest(model, tokenizer, rows, room))
        del model
        return EngineWriter(place, options, vocabulary), tokenizer


def whole(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, scratch: Path) -> Path:
    """Folder of a whole model: the policy's own, or for adapters one below ``scratch``."""
    if not holds_adapters(folder):
        return folder
    place = scratch / "policy"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def longest(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], room: int
) -> int:
    """Tokens of a prompt twice as long as the longest of some rows and an answer of ``room``, at most the
    model's window."""
    asked = 2 * longest_prompt([row["prompt"] for row in rows], tokenizer) + room
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(asked, window or asked)
