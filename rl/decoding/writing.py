"""What writes the answers: a model of transformers, or an engine that takes the same limits."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from transformers import PreTrainedModel

from ..sampling import Constraint, Draw, Sampling
from .generate import generate


@runtime_checkable
class Writer(Protocol):
    """Writes token ids behind token ids."""

    vocabulary: int
    """Number of tokens that it scores."""

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        copies: int = 1,
        constraint: Constraint | None = None,
        draw: Draw | None = None,
    ) -> list[list[int]]:
        """``copies`` answers to each prompt, in order, as :func:`recrl.rl.decoding.generate.generate`."""
        ...


class ModelWriter(Writer):
    """Writes with a model of transformers, in evaluation mode."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.vocabulary = int(model.config.get_text_config().vocab_size)

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        copies: int = 1,
        constraint: Constraint | None = None,
        draw: Draw | None = None,
    ) -> list[list[int]]:
        was_training = self._model.training
        self._model.eval()
        answers = generate(self._model, prompts, sampling, copies=copies, constraint=constraint, draw=draw)
        self._model.train(was_training)
        return answers


def writer_of(model: PreTrainedModel | Writer) -> Writer:
    """A writer as it is, a model as one."""
    return model if isinstance(model, Writer) else ModelWriter(model)
