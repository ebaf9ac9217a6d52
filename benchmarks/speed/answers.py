"""The answers of a worker that only samples: its engine, a turn at a time.

Every answer has as many tokens as the cell says, since nothing ends it: every engine does the same work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from transformers import GenerationConfig

from recrl.launch.cluster.serve import free_port, running
from recrl.rl import policy
from recrl.rl.decoding.generate import generate
from recrl.rl.rollouts.base import Request
from recrl.rl.rollouts.make import make_engine
from recrl.rl.rollouts.settings import RolloutConfig
from recrl.rl.sampling import Sampling

from ..memory import memory
from . import workload
from .cells import EXPANSION, SAMPLERS
from .messages import GO, LOG, READY, STEP, Job, Sampled, Start
from .steps import now

_PATIENCE = 600.0  # seconds until a server answers
_KV_CACHE = 2.0  # GiB

Prompts: TypeAlias = Sequence[tuple[int, ...]]
Sample: TypeAlias = Callable[[Prompts, int], list[list[int]]]
"""Function that samples answers to prompts, with a seed; those to one prompt stand together."""


def take(job: Job, connection: Any) -> None:
    """Hand the weights over and answer new prompts, ``job.steps`` times; each waits for its turn."""
    torch.set_num_threads(job.threads)
    cell = job.cell
    model: Any
    model, tokenizer = policy.load(
        policy.PolicyConfig(model=str(job.policy), dtype=workload.DTYPES[job.device])
    )
    model = model.to(job.device).eval()
    rows = workload.prompted_rows(
        tokenizer, workload.catalog(), job.steps * cell.groups, cell.prompt, job.seed
    )
    template: Any = tokenizer.apply_chat_template  # its return type ignores return_dict
    asked = [tuple(template(row["prompt"], add_generation_prompt=True, return_dict=False)) for row in rows]

    with _engine(job, model) as (hand_over, sample):
        connection.send((READY, Start(memory("VmRSS"))))
        for step in range(job.steps):
            try:
                assert connection.recv() == GO
            except EOFError:  # the parent wants no more
                return
            started = now(job.device)
            hand_over(f"step-{step}")
            handed_over = now(job.device)
            found = sample(asked[step * cell.groups : (step + 1) * cell.groups], job.seed + step)
            ended = now(job.device)
            lengths = [len(answer) for answer in found]
            if lengths != [cell.answer] * (cell.groups * cell.group_size):
                raise RuntimeError(f"answers have {lengths} tokens")
            connection.send((STEP, Sampled(handed_over - started, ended - handed_over)))


@contextmanager
def _engine(job: Job, model: Any) -> Iterator[tuple[Callable[[str], None], Sample]]:
    """Functions by which an engine takes weights over and answers."""
    chosen, cell = SAMPLERS[job.kind], job.cell
    sampling = Sampling(max_tokens=cell.answer, ends=())
    if chosen.engine == "transformers":
        answer = _expanded if job.kind == EXPANSION else generate

        def sample_here(prompts: Prompts, seed: int) -> list[list[int]]:
            torch.manual_seed(seed)
            return answer(model, prompts, sampling, copies=cell.group_size)

        yield lambda version: None, sample_here
        return
    port = free_port()
    config = RolloutConfig(
        engine=chosen.engine,
        kv_cache=_KV_CACHE,
        servers=(f"http://127.0.0.1:{port}",),
        exchange=job.output / "exchange" if job.device == "cpu" else None,
        **chosen.options,
    )
    dtype, longest = workload.DTYPES[job.device], cell.prompt + cell.answer
    with _served(job, config, dtype, longest, port):
        engine = make_engine(config, job.policy, dtype, longest, job.output)
        assert engine is not None

        def sample(prompts: Prompts, seed: int) -> list[list[int]]:
            requests = [Request(prompt, cell.group_size, seed + i) for i, prompt in enumerate(prompts)]
            return [list(one.tokens) for group in engine.generate(requests, sampling) for one in group]

        try:
            yield (
                lambda version: engine.update(
                    version, lambda: ((name, p.data) for name, p in model.named_parameters())
                ),
                sample,
            )
        finally:
            engine.close()


@contextmanager
def _served(job: Job, config: RolloutConfig, dtype: str, longest: int, port: int) -> Iterator[None]:
    if config.engine != "vllm-server":
        yield
        return
    log = job.output / LOG
    with running(config, job.policy, dtype, longest, port, run=job.output, patience=_PATIENCE, log=log):
        yield


@torch.no_grad()
def _expanded(model: Any, prompts: Prompts, sampling: Sampling, *, copies: int) -> list[list[int]]:
    """Answers in TRL's way: every prompt is repeated for each of its answers, and all are read."""
    rows = torch.tensor([prompt for prompt in prompts for _ in range(copies)], device=model.device)
    # Transformers would fill what is not set from the configuration beside the model.
    model.generation_config = GenerationConfig()
    config = GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        pad_token_id=0,
    )
    produced = model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), generation_config=config)
    return produced[:, rows.shape[1] :].tolist()
