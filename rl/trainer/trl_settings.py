"""``train.trl``: which fields of TRL's ``GRPOConfig`` a run may set itself.

A field is refused, with what to use instead, if a setting of recrl stands for it or if it would break what
recrl promises: exact resumes, the same prompts and answers in every stage.

``check_fields``  names and kinds of values, when a configuration is read
``check_values``  TRL's own checks, before anything starts
"""

import os
import typing
from collections.abc import Mapping
from typing import Any

from ...envs.settings import check_plain, nearest, shown

_EVALUATION = "recrl evaluates by itself; use evaluation"
_LAUNCH = "use recrl launch --strategy"
_VLLM = "use rollout"
_OWN = "recrl sets it"

OWNED: dict[str, str] = {
    # What a step is.
    "max_steps": "use train.steps",
    "num_train_epochs": "use train.steps",
    "per_device_train_batch_size": "use train.prompts_per_step and train.group_size",
    "gradient_accumulation_steps": "use train.micro_batches",
    "generation_batch_size": "use train.prompts_per_step",
    "steps_per_generation": "use train.micro_batches and train.reuse",
    "num_iterations": "use train.reuse",
    "num_generations": "use train.group_size",
    "auto_find_batch_size": "groups would be torn; use train.micro_batches",
    "learning_rate": "use train.learning_rate",
    "lr_scheduler_type": "use train.schedule",
    "warmup_steps": "use train.warmup_steps",
    "max_grad_norm": "use train.max_grad_norm",
    "loss_type": "use train.loss",
    "gradient_checkpointing": "use train.gradient_checkpointing",
    "seed": "use seed",
    "data_seed": "use seed",
    # The constrained problem.
    "beta": "use train.kl",
    "sync_ref_model": "the reference of train.kl is the warm start",
    "ref_model_mixup_alpha": "the reference of train.kl is the warm start",
    "ref_model_sync_steps": "the reference of train.kl is the warm start",
    "reward_weights": "use the weight of each entry of rewards",
    "multi_objective_aggregation": "use optimizer.rule",
    "scale_rewards": "use optimizer.rule",
    "use_adaptive_entropy": "a resume would forget what it adapted to; set entropy_coef",
    # Answers, in training as in the evaluation.
    "max_completion_length": "use train.max_answer_tokens",
    "temperature": "use train.temperature",
    "top_p": "use train.top_p",
    "top_k": "the evaluation would sample otherwise; use train.top_p",
    "min_p": "the evaluation would sample otherwise; use train.top_p",
    "chat_template_kwargs": "other stages would read other prompts; change the tokenizer's chat template",
    # Engines.
    "use_vllm": "use rollout.engine",
    "vllm_mode": "use rollout.engine",
    "vllm_model_impl": "use rollout.engine",
    "vllm_enable_sleep_mode": _VLLM,
    "vllm_structured_outputs_regex": _VLLM,
    "vllm_server_base_url": "use rollout.servers",
    "vllm_server_host": "use rollout.servers",
    "vllm_server_port": "use rollout.servers",
    "vllm_server_timeout": "use rollout.patience",
    "vllm_group_port": "use rollout.nccl_port",
    "vllm_gpu_memory_utilization": "use rollout.gpu_memory",
    "vllm_max_model_length": "recrl measures the prompts; use train.max_answer_tokens",
    "vllm_tensor_parallel_size": "use rollout.tensor_parallel",
    "vllm_importance_sampling_correction": "use rollout.correction",
    # The policy.
    "model_init_kwargs": "use policy",
    "trust_remote_code": "use policy.trust_remote_code",
    "bf16": "use policy.dtype",
    "fp16": "use policy.dtype",
    # Processes and devices.
    "use_cpu": "use CUDA_VISIBLE_DEVICES",
    "local_rank": _LAUNCH,
    "ddp_timeout": "use train.collective_timeout",
    "deepspeed": _LAUNCH,
    "fsdp": _LAUNCH,
    "fsdp_config": _LAUNCH,
    "parallelism_config": _LAUNCH,
    "accelerator_config": _LAUNCH,
    # What a run writes.
    "output_dir": "use output",
    "run_name": "use name",
    "report_to": "use train.report_to",
    "logging_strategy": "recrl logs every step",
    "logging_steps": "recrl logs every step",
    "disable_tqdm": "recrl shows its own progress",
    "save_strategy": "use train.save_every",
    "save_steps": "use train.save_every",
    "save_total_limit": "recrl keeps the last two checkpoints",
    "save_only_model": "a run could not go on from such checkpoints",
    "save_on_each_node": "all machines share the run folder",
    "enable_jit_checkpoint": "recrl saves at SIGTERM by itself",
    "hub_token": "settings are saved; use the environment variable HF_TOKEN",
    "push_to_hub": "upload the folder policy/ of the finished run",
    "resume_from_checkpoint": "use --resume",
    "ignore_data_skip": "a resume would read other prompts",
    "load_best_model_at_end": _EVALUATION,
    "metric_for_best_model": _EVALUATION,
    "greater_is_better": _EVALUATION,
    "do_train": _OWN,
    "do_eval": _EVALUATION,
    "do_predict": _EVALUATION,
    "eval_strategy": _EVALUATION,
    "eval_steps": _EVALUATION,
    "eval_delay": _EVALUATION,
    "eval_on_start": _EVALUATION,
    "per_device_eval_batch_size": "use evaluation.batch_size",
    "num_generations_eval": "use evaluation.answers_per_prompt",
    # Rows go to the rewards as they are.
    "remove_unused_columns": _OWN,
    "dataloader_pin_memory": _OWN,
}
"""Fields that a run may not set, and what to do instead."""


def check_fields(given: Mapping[str, Any]) -> None:
    """Refuse fields that recrl owns or TRL does not have, and values of another kind.

    Raises:
        ValueError: there is one; the first is named.
    """
    check_plain(dict(given))
    for name, value in given.items():
        if name in OWNED:
            raise ValueError(
                f"train.trl.{shown(name)[1:-1]}={shown(value)} cannot be set there: {OWNED[name]}"
            )
    if not given:
        return
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from trl import GRPOConfig

    kinds = typing.get_type_hints(GRPOConfig)
    known = sorted(kinds.keys() - OWNED.keys())
    for name, value in given.items():
        if name not in known:
            fields = nearest(name, [*known, *OWNED], most=20)
            raise ValueError(f"train.trl: TRL's GRPOConfig has no field {shown(name)}{fields}")
        kind = TypeAdapter[Any](kinds[name], config=ConfigDict(arbitrary_types_allowed=True))
        try:
            kind.validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            raise ValueError(f"train.trl.{name}={shown(value)}: {said[:1].lower()}{said[1:]}") from error


def check_values(given: Mapping[str, Any], *, on_cpu: bool) -> None:
    """Let TRL check the values.

    Raises:
        ValueError: TRL refuses one.
    """
    if not given:
        return
    from trl import GRPOConfig

    # With these variables the arguments would set up how weights are sharded, for whatever is loaded later.
    sharding = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
    before = {name: os.environ.pop(name) for name in sharding if name in os.environ}
    try:
        GRPOConfig(output_dir="unused", report_to="none", bf16=False, use_cpu=on_cpu, **given)
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"train.trl={shown(dict(given))}: {said}; change it, or leave it out") from error
    finally:
        os.environ.update(before)
