"""The section ``task`` of a configuration, for the prompts task."""

from pathlib import Path
from typing import Annotated

from pydantic import model_validator

from ..settings import MANY, Between, Each, Place
from ..settings import Text as Plain
from ..task import TaskSettings


class PromptsConfig(TaskSettings, frozen=True, use_attribute_docstrings=True):
    """Prompts out of a file."""

    path: Annotated[Path, Place()] | None = None
    """File with a row a prompt: ``.jsonl``, ``.parquet`` or ``.csv``; or a folder that ``save_to_disk`` of
    Hugging Face's datasets wrote."""
    test_path: Annotated[Path, Place()] | None = None
    """File with the rows to evaluate on; by default a share of ``path``."""
    split: Annotated[str, Plain(200)] | None = None
    """Column of ``path`` that says ``train`` or ``test``; other rows are left out."""
    test_share: Annotated[float, Between(0, 1)] = 0.1
    """Share of the prompts that is held out, where neither ``test_path`` nor ``split`` says which."""
    prompt: Annotated[str, Plain(200)] = "prompt"
    """Column of the prompt: a text, or chat messages with ``role`` and ``content``."""
    system: Annotated[str, Plain(10_000)] | None = None
    """System message before prompts that are texts; none by default."""
    reference: Annotated[str, Plain(200)] | None = None
    """Column of an answer, or of a list of answers, that the warm start teaches."""
    user: Annotated[str, Plain(200)] | None = None
    """Column of what belongs together: held out together, and drawn together for intervals."""
    columns: Annotated[tuple[Annotated[str, Plain(200)], ...], Each()] | None = None
    """Columns that rewards may read; by default all others."""
    max_tokens: Annotated[int, Between(1, MANY)] = 128
    """Tokens of the longest answer."""

    @model_validator(mode="after")
    def _one_way(self) -> "PromptsConfig":
        if self.path is None:
            raise ValueError(
                "task.path is missing: name the file of the prompts, such as task.path=prompts.jsonl"
            )
        if self.test_path is not None and self.split is not None:
            raise ValueError("task.test_path and task.split both say what is held out; leave one of them out")
        return self
