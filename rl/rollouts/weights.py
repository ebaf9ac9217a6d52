"""The policy's parameters as a rollout engine wants them: whole, merged, and under a checkpoint's names."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..distributed.processes import whole

# Parts that wrappers put into names.
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.", "base_layer.", "modules_to_save.default.")
_PEFT = "base_model.model."


def named_weights(model: Any, accelerator: Accelerator) -> Iterator[tuple[str, Tensor]]:
    """Every parameter once, tied ones under their first name; with adapters, what they make of it.

    A ZeRO-3 parameter is gathered while it is looked at, so every rank has to walk, and a tensor must be used
    or copied before the next one is asked for. The policy itself is left as it was, to the bit.

    Args:
        model: Policy; wrappers may be around it.
        accelerator: Accelerator, which knows how the policy is sharded.

    Raises:
        NotImplementedError: FSDP shards it.
    """
    if getattr(accelerator.state, "fsdp_plugin", None) is not None:
        raise NotImplementedError(
            "rollout.engine=vllm-* cannot read a policy that FSDP shards; train with DeepSpeed ZeRO or "
            "DDP, or set "
            "rollout.engine=transformers"
        )
    policy = accelerator.unwrap_model(model)
    if not hasattr(policy, "peft_config"):
        for name, parameter in policy.named_parameters():
            with whole([parameter], accelerator):
                yield _plain(name), parameter.data
        return
    prefix = policy.base_model.prefix  # of the names of an adapter's own parameters
    seen: set[int] = set()
    for path, module in policy.named_modules():
        if module is policy or not _owns_layer(module):
            continue
        base = module.get_base_layer()
        with whole(list(module.parameters()), accelerator):
            before = {name: parameter.data.clone() for name, parameter in base.named_parameters()}
            module.merge()
            for name, parameter in base.named_parameters():
                seen.add(id(parameter))
                yield _plain(f"{path}.{name}"), parameter.data
            module.unmerge()
            # Taking a product away again leaves rounding errors, which would pile up over the steps.
            for name, parameter in base.named_parameters():
                parameter.data.copy_(before[name])
    for name, parameter in policy.named_parameters():
        if id(parameter) in seen or prefix in name or "original_module" in name:
            continue
        with whole([parameter], accelerator):
            yield _plain(name), parameter.data


def _owns_layer(module: torch.nn.Module) -> bool:
    """Whether a module is a layer with adapters of its own."""
    return hasattr(module, "get_base_layer") and hasattr(module, "merge")


def _plain(name: str) -> str:
    name = name.removeprefix(_PEFT)
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
