"""Engine in the trainer's process: one for each rank, which answers that rank's prompts."""

import contextlib
import gc
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..distributed.processes import distributed_state
from ..sampling import Sampling
from .base import Answer, Request, RolloutError, Weights, fault, sampling_options

# Parameters are handed over in parts of about this size, so that a sharded policy is never whole in memory.
_PART = 256 * 2**20
# With its own process groups vLLM ends the trainer's, and whoever waits for another rank would hang: engines
# that share them live until the process ends.
_lasting: list[Any] = []


class ColocatedEngine:
    """vLLM beside the trainer.

    Args:
        policy: Folder of weights and tokenizer that it starts with.
        options: Options of ``vllm.LLM``, see :meth:`recrl.rl.rollouts.settings.RolloutConfig.engine_options`.

    Raises:
        RolloutError: vLLM is not installed, or refuses the policy.
    """

    def __init__(self, policy: Path | str, options: dict[str, Any]) -> None:
        self.dtype = str(options["dtype"])
        several = distributed_state().num_processes > 1  # before vLLM could set up process groups of its own
        shared_groups = torch.distributed.is_initialized()
        # In one process tensors can be handed over, and nothing has to be pickled.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # The threads are the trainer's, too.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm import LLM, SamplingParams

            from .transfer import BACKEND, register
        except ImportError as error:
            raise RolloutError(
                f"rollout.engine=vllm-colocate needs vLLM ({error}); install recrl[vllm] on CUDA, see "
                "README for a CPU, "
                "or set rollout.engine=transformers"
            ) from error
        register()
        self._parameters = SamplingParams
        if several:
            # Each rank's engine stays on the rank's own device.
            options = {**options, "distributed_executor_backend": "external_launcher"}
        gc.collect()  # an engine of before, once it is collected, ends the process groups of any other
        try:
            with left_alone():
                self._llm: Any = LLM(str(policy), weight_transfer_config={"backend": BACKEND}, **options)
                # Some of what it cannot compute it says only when it is asked.
                first: Any = [{"prompt_token_ids": [0]}]
                self._llm.generate(first, SamplingParams(max_tokens=1), use_tqdm=False)
        except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
            raise RolloutError(
                f"vLLM cannot run the policy {policy}: {error}. Set rollout.engine=transformers, or mend "
                "what it names"
            ) from error
        if shared_groups:
            _lasting.append(self._llm)

    def update(self, version: str, weights: Weights) -> None:
        llm = self._llm
        llm.start_weight_update()
        part, size = [], 0
        for name, tensor in weights():
            # A sharded parameter is whole only until the next one.
            part.append((name, tensor.detach().clone()))
            size += tensor.nbytes
            if size >= _PART:
                llm.update_weights({"update_info": {"tensors": part}})
                part, size = [], 0
        llm.update_weights({"update_info": {"tensors": part}})
        llm.finish_weight_update(version)
        # Keys and values of the old weights must not answer for the new ones.
        if not llm.reset_prefix_cache():
            raise RolloutError(
                "the engine still answers while its weights are exchanged; its prefix cache is stale"
            )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
        if not requests:
            return []
        with left_alone():
            found = self._llm.generate(
                [{"prompt_token_ids": list(request.prompt)} for request in requests],
                [self._parameters(**sampling_options(sampling, request)) for request in requests],
                use_tqdm=False,
            )
        groups = [[_answer(output) for output in result.outputs] for result in found]
        for request, group in zip(requests, groups, strict=True):
            why = (
                f"{len(group)} of {request.answers} answers came"
                if len(group) != request.answers
                else next(filter(None, (fault(answer, sampling) for answer in group)), None)
            )
            if why:
                raise RolloutError(f"the engine failed on a prompt of {len(request.prompt)} tokens: {why}")
        return groups

    def close(self) -> None:
        self._llm = None
        gc.collect()


def _answer(output: Any) -> Answer:
    tokens = tuple(output.token_ids)
    logprobs = tuple(at[token].logprob for token, at in zip(tokens, output.logprobs, strict=True))
    return Answer(tokens, logprobs, tuple(span.version for span in output.weight_versions or ()))


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Keep what vLLM changes for the whole process: random numbers, the number of threads and its setting."""
    threads, setter = torch.get_num_threads(), torch.set_num_threads
    others = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])
            torch.set_num_threads = setter
            setter(threads)
