"""vLLM in this process, asked in words."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from ...envs.chat.ledger import Ledger
from ...envs.chat.models import Question
from ...envs.chat.settings import ChatConfig
from ..rollouts.colocate import left_alone
from ..rollouts.settings import RolloutConfig
from .local import LocalModel, Written, end_tokens


class VllmModel(LocalModel):
    """Answers batches by an engine of vLLM in this process.

    Args:
        config: Settings, of ``backend=vllm``.
        ledger: Ledger that counts; by default one of its own.

    Raises:
        ValueError: vLLM refuses the model, or it has no chat template.
        ModuleNotFoundError: vLLM is not installed.
    """

    def __init__(self, config: ChatConfig, *, ledger: Ledger | None = None) -> None:
        if config.model in ("tiny", "smollm2"):
            raise ValueError(
                f"model={config.model} is no folder that vLLM reads; set backend=transformers, or name the "
                "policy/ of a run"
            )
        # In one process the engine can be stopped at a deadline, and no signal is missed.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm import LLM, SamplingParams
            from vllm.sampling_params import StructuredOutputsParams
        except ImportError as error:
            raise ModuleNotFoundError(
                f"backend=vllm needs vLLM ({error}); install recrl[vllm] on CUDA, see README for a CPU, or "
                "set backend=transformers"
            ) from error
        self._parameters, self._structured = SamplingParams, StructuredOutputsParams
        engine = RolloutConfig(kv_cache=config.kv_cache, gpu_memory=config.gpu_memory, sequences=config.batch)
        options: dict[str, Any] = engine.engine_options(_dtype(config.dtype), 0)
        options |= {
            "max_model_len": config.context,
            # White space without end is what a small model likes best.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        }
        try:
            with left_alone():
                self._llm: Any = LLM(config.model, **options)
        except (AssertionError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:600]
            raise ValueError(
                f"model={config.model!r}: vLLM cannot run it: {why}; mend that, or set backend=transformers"
            ) from error
        tokenizer: Any = self._llm.get_tokenizer()
        if tokenizer.chat_template is None:
            raise ValueError(f"model={config.model!r} has no chat template; use an instruction-tuned model")
        about = self._llm.llm_engine.model_config
        super().__init__(config, tokenizer, int(about.max_model_len), ledger=ledger)
        self._ends = end_tokens(tokenizer, getattr(about.hf_config, "eos_token_id", None))
        self._numbers = itertools.count()

    def write(self, prompts: list[list[int]], questions: list[Question], until: float) -> list[Written]:
        engine = self._llm.llm_engine
        numbers = [str(next(self._numbers)) for _ in prompts]
        for number, prompt, question in zip(numbers, prompts, questions, strict=True):
            engine.add_request(number, {"prompt_token_ids": prompt}, self._sampling(question))
        done: dict[str, Any] = {}
        while engine.has_unfinished_requests():
            if time.monotonic() >= until:
                engine.abort_request([number for number in numbers if number not in done])
                break
            done |= {output.request_id: output for output in engine.step() if output.finished}
        found = []
        for number in numbers:
            if number not in done:
                found.append(Written("", 0, ended=False, late=True))
                continue
            (answer,) = done[number].outputs
            found.append(Written(answer.text, len(answer.token_ids), answer.finish_reason == "stop"))
        return found

    def _sampling(self, question: Question) -> Any:
        config, schema = self.config, question.json_schema
        seed = (config.seed or 0) + int(question.key({})[:12], 16)
        return self._parameters(
            temperature=config.temperature,
            seed=None if self.greedy else seed,
            max_tokens=config.max_tokens,
            stop=list(config.stop) or None,
            stop_token_ids=list(self._ends),
            structured_outputs=None if schema is None else self._structured(json=schema),
        )

    def _release(self) -> None:
        self._llm = None


def _dtype(dtype: str) -> str:
    import torch

    if dtype != "auto":
        return dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"
