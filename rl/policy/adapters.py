"""Low-rank adapters (LoRA, by the package peft): small matrices beside linear layers, trained in their place.

A folder of adapters holds their weights, a tokenizer, and ``adapter_config.json``, which names the model that
they adapt. A model that has no name of its own (``tiny``, ``smollm2``) stands in the folder too: ``base/``.

``add``          new adapters around a model
``settings_of``  what a folder, or a repository of the hub, says of its adapters
``base_of``      the model that they adapt
``attach``       the adapters of a folder, around that model or merged into it
``save``         the folder
``restore``      the weights of a folder, into adapters that are there
"""

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, find_adapter_config_file

from .errors import PolicyError
from .folders import ADAPTER_SETTINGS, holds_adapters
from .slots import ADAPTOR

if TYPE_CHECKING:
    from .settings import LoraConfig

ALL = ("all-linear",)
"""``policy.lora.targets``: every linear layer but the head."""

_BASE = "base"
# Names by peft and TRL: of the adapters that are trained, and in the state of a model that has them.
_TRAINED, _PREFIX, _LAYER, _LORA = "default", "base_model.model.", ".base_layer", ".lora_"


def check_installed(setting: str) -> None:
    """Refuse adapters without the package peft.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError(f"{setting} needs the package peft: pip install 'recrl[lora]'")


def has_adapters(model: Any) -> bool:
    """Whether adapters are around a model."""
    return hasattr(model, "peft_config")


def add(model: PreTrainedModel, lora: "LoraConfig", seed: int, revision: str | None = None) -> Any:
    """New adapters around a model, which leave its output as it is.

    Args:
        seed: Seed of their weights.
        revision: Revision of the hub that the model was loaded from.

    Raises:
        PolicyError: ``policy.lora.targets`` names what the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_targets(model, lora),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, settings)
    settings.base_model_name_or_path, settings.revision = _name(model), revision
    return adapted


def settings_of(place: str, revision: str | None) -> Any | None:
    """Settings of the adapters in a folder or a repository of the hub; None for a whole model.

    Raises:
        ModuleNotFoundError: there are adapters, and no peft.
        PolicyError: they are not LoRA.
    """
    path = find_adapter_config_file(place, revision=revision)
    if path is None:
        return None
    check_installed(f"policy.model={place}, a folder of adapters,")
    from peft import PeftConfig

    settings = PeftConfig.from_pretrained(os.path.dirname(path))
    if settings.peft_type != "LORA":
        kind = getattr(settings.peft_type, "value", settings.peft_type)
        raise PolicyError(
            f"policy.model={place} holds adapters of the kind {kind}; give LoRA adapters, or merge these "
            "into their model and name that"
        )
    return settings


def base_of(place: str, settings: Any) -> str:
    """Folder or name of the model that adapters adapt.

    Raises:
        PolicyError: they name a folder that is not there.
    """
    inside, name = Path(place) / _BASE, settings.base_model_name_or_path
    if inside.is_dir():
        return str(inside)
    if not name:
        raise PolicyError(
            f"policy.model={place}: its {ADAPTER_SETTINGS} does not name the model that it adapts; write "
            "it there as base_model_name_or_path"
        )
    beside = Path(place) / name
    if not Path(name).is_dir() and beside.is_dir():
        return str(beside)
    # A name of the hub has one slash at most.
    if not Path(name).is_dir() and (name.startswith((".", "~", "/")) or name.count("/") > 1):
        raise PolicyError(
            f"policy.model={place} adapts the model in {name}, which is not there (from {os.getcwd()}); "
            f"put it back, or write its place into {Path(place) / ADAPTER_SETTINGS} "
            "(base_model_name_or_path)"
        )
    return str(name)


def attach(model: PreTrainedModel, place: str, settings: Any, lora: "LoraConfig | None") -> Any:
    """The adapters of a folder around their model.

    Args:
        settings: Settings of the adapters, see :func:`settings_of`.
        lora: Settings that they must have to be trained on; None merges them into the model.

    Raises:
        PolicyError: they are not those of ``lora``.
    """
    from peft import PeftModel

    if lora is not None:
        _check_same(model, place, settings, lora)
    settings.base_model_name_or_path = _name(model)
    options: dict[str, Any] = {"config": settings, "is_trainable": lora is not None, "torch_device": "cpu"}
    adapted: Any = PeftModel.from_pretrained(model, place, **options)
    if lora is not None:
        return adapted.eval()
    # Merging leaves the weights frozen, as they were below the adapters.
    return adapted.merge_and_unload().requires_grad_(True)


def save(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    target: Path,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapters that are trained, and the model that they adapt where it has no name of its own.

    Args:
        folder: Folder in which they are written.
        target: Name that the folder will get.
        weights: Weights in place of the model's, which holds a part of them where processes share them.
    """
    settings, base = model.peft_config[_TRAINED], model.get_base_model()
    origin, before = str(base.name_or_path), settings.base_model_name_or_path
    if not origin:
        state = model.state_dict() if weights is None else weights
        own = {name: value for name, value in state.items() if _LORA not in name}
        own = {name.removeprefix(_PREFIX).replace(_LAYER, ""): value for name, value in own.items()}
        base.save_pretrained(folder / _BASE, state_dict=own)
        tokenizer.save_pretrained(folder / _BASE)
    elif Path(origin).name == _BASE and holds_adapters(Path(origin).parent):
        shutil.copytree(origin, folder / _BASE)
    if (folder / _BASE).is_dir():
        settings.base_model_name_or_path = str(target.absolute() / _BASE)
    # TRL may keep a copy of the first adapters beside them, its reference. Embeddings are not trained; to
    # find that out peft would look for the model.
    model.save_pretrained(
        folder, selected_adapters=[_TRAINED], state_dict=weights, save_embedding_layers=False
    )
    settings.base_model_name_or_path = before


def restore(model: Any, folder: Path) -> None:
    """Read the weights of a folder into the adapters that a model has.

    Raises:
        ValueError: they are of other adapters.
    """
    from peft import set_peft_model_state_dict

    weights = load_file(folder / ADAPTER_SAFE_WEIGHTS_NAME, device="cpu")
    result: Any = set_peft_model_state_dict(model, weights, adapter_name=_TRAINED)
    missing = [name for name in result.missing_keys if _LORA in name and f".{_TRAINED}." in name]
    if faults := [*missing, *result.unexpected_keys]:
        raise ValueError(f"its weights are of other adapters ({faults[:3]})")


def _name(model: PreTrainedModel) -> str:
    """Origin of a model, by a name that means the same from any folder."""
    name = str(model.name_or_path)
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _targets(model: PreTrainedModel, lora: "LoraConfig") -> list[str]:
    """Names of the layers that get adapters."""
    head = model.get_output_embeddings()
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and ADAPTOR not in name
    ]
    last = sorted({name.rpartition(".")[2] for name in layers})
    if lora.targets == ALL:
        return last
    for target in lora.targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise PolicyError(
                f"policy.lora.targets names {target!r}, which is no linear layer of {type(model).__name__} "
                f"below its head; give some of {', '.join(last)}, or all-linear"
            )
    return list(lora.targets)


def _check_same(model: PreTrainedModel, place: str, settings: Any, lora: "LoraConfig") -> None:
    found = {"rank": settings.r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout}
    wanted: dict[str, Any] = {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout}
    if isinstance(settings.target_modules, set):  # a text is a pattern, by others
        found["targets"] = sorted({name.rpartition(".")[2] for name in settings.target_modules})
        wanted["targets"] = sorted({name.rpartition(".")[2] for name in _targets(model, lora)})
    for setting, value in wanted.items():
        if value != found[setting]:
            raise PolicyError(
                f"policy.lora.{setting}={value}, but the adapters in {place} have {found[setting]}; set it "
                "so to go on with them, or leave policy.lora out to train all weights from what they make"
            )
