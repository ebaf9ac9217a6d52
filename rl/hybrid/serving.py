"""Prompts with entity slots on vLLM: as embeddings, which it takes in place of token ids.

Any number of entities can be served so: the store and the adaptor stay in front of the engine, which holds
the model alone.

``export``  a folder that other programs load: the model without its slots
``embeds``  a prompt as vLLM takes it
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..policy.loading import save_policy
from ..policy.slots import SETTING, without_slots

OPTIONS = {"enable_prompt_embeds": True}
"""Options of ``vllm.LLM`` that let it take such prompts."""


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model without its slots; it answers prompts of :func:`embeds` as the model does.

    Args:
        folder: Folder to write; one that exists is replaced.
    """
    settings = vars(model.config).pop(SETTING)
    try:
        save_policy(model, tokenizer, folder, without_slots(model.state_dict()))
    finally:
        setattr(model.config, SETTING, settings)


@torch.no_grad()
def embeds(model: PreTrainedModel, prompt: Sequence[int]) -> dict[str, Any]:
    """A prompt of token ids, slots among them, as vLLM takes it: one vector a position."""
    ids = torch.tensor([list(prompt)], device=model.device)
    return {"prompt_embeds": model.get_input_embeddings()(ids)[0].cpu()}
