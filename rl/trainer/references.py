"""The reference of a KL term, which TRL loads itself, from the folder or the name of the policy.

``loaded_like``  how it is loaded: whole, and with the policy's entity slots
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel
from trl.trainer import grpo_trainer

from ..distributed.processes import unsharded
from ..policy import slots


@contextmanager
def loaded_like(policy: str | PreTrainedModel) -> Iterator[None]:
    """Context in which TRL loads the reference of a policy.

    ZeRO-3 shards it behind that, as it does the policy. Slots have to be there by then: weights that are
    shards cannot be given any.
    """
    load = grpo_trainer.create_model_from_path

    def loaded(*arguments: Any, **options: Any) -> PreTrainedModel:
        with unsharded():
            reference: PreTrainedModel = load(*arguments, **options)
        if not isinstance(policy, str):
            slots.copy(policy, reference)
        return reference

    grpo_trainer.create_model_from_path = loaded
    try:
        yield
    finally:
        grpo_trainer.create_model_from_path = load
