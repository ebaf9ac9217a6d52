"""vLLM in this process as a writer: the answers of a model of transformers, under the same limits."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..decoding.writing import Writer
from ..rollouts.base import Request, RolloutError
from ..rollouts.colocate import ColocatedEngine
from ..sampling import Constraint, Draw, Sampling


class EngineWriter(Writer):
    """Writes with vLLM.

    Args:
        policy: Folder of a whole model and its tokenizer.
        options: Options of ``vllm.LLM``, see :meth:`recrl.rl.rollouts.settings.RolloutConfig.engine_options`.
        vocabulary: Number of tokens that the model scores.

    Raises:
        RolloutError: vLLM is not installed, or refuses the policy.
    """

    def __init__(self, policy: Path | str, options: dict[str, Any], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        # The processor is of the interface that vLLM had first; on a GPU its default is the other one.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        try:
            from ..decoding.processors import NUMBER, Held, Limit
        except ImportError as error:
            raise RolloutError(
                f"rollout.engine=vllm-colocate needs vLLM ({error}); install recrl[vllm] on CUDA, see README "
                "for a CPU, or set rollout.engine=transformers"
            ) from error
        self._field, self._limit = NUMBER, Limit
        self._held: type[Held] = type("Held", (Held,), {})
        # A prompt that is read in parts draws tokens that nobody takes.
        options = {**options, "logits_processors": [self._held], "enable_chunked_prefill": False}
        self._engine = ColocatedEngine(policy, options)

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        copies: int = 1,
        constraint: Constraint | None = None,
        draw: Draw | None = None,
    ) -> list[list[int]]:
        if constraint is not None:
            constraint.begin(len(prompts) * copies)
        self._held.now = self._limit(constraint, draw, sampling.ends)
        asked = [tuple(prompt) for prompt in prompts for _ in range(copies)]
        requests = [Request(prompt, 1, 0, {self._field: number}) for number, prompt in enumerate(asked)]
        return [list(answer.tokens) for (answer,) in self._engine.generate(requests, sampling)]

    def close(self) -> None:
        """Give up the engine, or its end would take a later one of this process with it."""
        self._engine.close()
