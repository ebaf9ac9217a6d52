"""A small warm start, and one that is killed again and again.

Usage: killed_warm_starts.py CHECKPOINT TRIALS

The trials are forks of this process, which has one thread: a fork of a process with several may wait forever
for what another thread held. It prints the step that the checkpoint held after each, as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from listed import Listed

from recrl.envs.catalog import Catalog
from recrl.rl import policy
from recrl.rl.policy import warmstart as module
from recrl.rl.policy.settings import PolicyConfig, TinyConfig, WarmStartConfig
from recrl.rl.policy.warmstart import warm_start

TAGS = Catalog([f"tag {letter}" for letter in "abcdefghijklmnop"])
STEPS = 9


def forty_rows():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        history = rng.permutation(16)[: 1 + i % 7].tolist()
        content = f"<user>\n{TAGS.render(history)}</user>"
        rows.append(
            {"prompt": [{"role": "user", "content": content}], "target": history[:2], "history": history}
        )
    return rows


def started(
    checkpoint=None, *, stop_after=None, seed=3, rows=None, on_step=lambda step, loss: None, **settings
):
    """A warm start of a new policy; its weights, losses, and what was asked in each step."""
    rows = forty_rows() if rows is None else rows
    config = PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300))
    model, tokenizer = policy.load(config, options=TAGS.tags, texts=[r["prompt"][0]["content"] for r in rows])
    asked, real = [], module._loss

    def spy(model, tokenizer, prompts, answers):
        asked.append([[prompt[0]["content"] for prompt in prompts], answers])
        return real(model, tokenizer, prompts, answers)

    def stop():
        return len(taken) == stop_after

    taken = []

    def step_taken(step, loss):
        taken.append(step)
        on_step(step, loss)

    options = WarmStartConfig(**{"steps": STEPS, "prompts_per_step": 8, "lists_per_prompt": 2, **settings})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_loss", spy)
        losses = warm_start(
            model,
            tokenizer,
            rows,
            Listed(TAGS, 3),
            options,
            seed,
            step_taken,
            checkpoint=checkpoint,
            stop=stop,
        )
    return {name: value.clone() for name, value in model.state_dict().items()}, losses, asked, taken


def step_of(checkpoint):
    """The last step that a checkpoint holds; 0 while it is exchanged for the next."""
    try:
        return json.loads((checkpoint / "manifest.json").read_text())["step"]
    except OSError:
        return 0


def killed(checkpoint, trials):
    """Steps that the checkpoint held after each trial.

    Every second trial waits for a new checkpoint, so that they get somewhere at any pace.
    """
    draw, reached = random.Random(0), [0]
    for trial in range(trials):
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            started(checkpoint, save_every=1)
            os._exit(0)
        ended = False
        while trial % 2 and not ended and step_of(checkpoint) <= reached[-1]:
            time.sleep(0.001)
            ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        time.sleep(draw.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reached.append(step_of(checkpoint))
    return reached


if __name__ == "__main__":
    print(json.dumps(killed(Path(sys.argv[1]), int(sys.argv[2]))))
