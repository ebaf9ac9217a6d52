"""Answers of one model through transformers and through vLLM, both in this process: the script behind
tests/rl/chat/test_vllm.py.

Usage: chat_backends.py POLICY OUTPUT; POLICY is a folder. Writes what each backend answered.
"""

import json
import random
import sys

import numpy as np
import torch
from injections import INJECTIONS

from recrl.envs.agents.style import Guideline
from recrl.envs.chat.models import quoted
from recrl.envs.chat.settings import ChatConfig
from recrl.rl.chat.make import make_chat

QUESTIONS = ["What next?", "Say yes.", *(quoted(text, "title") for text in INJECTIONS[::40])]


def main() -> None:
    policy, output = sys.argv[1:]
    found = {}
    for backend in ("transformers", "vllm"):
        given = {"backend": backend, "model": policy, "max_tokens": 100, "batch": 4}
        given |= {"kv_cache": 0.1} if backend == "vllm" else {}
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        model = make_chat(ChatConfig(**given))
        numbers = [random.random(), np.random.random(), torch.rand(1).item()]
        model.config, patient = model.config.model_copy(update={"deadline": 1e-3}), model.config
        (late,) = model.replies(["Say no."])
        model.config = patient
        shaped, free = model.replies(QUESTIONS, schema=Guideline), model.replies(QUESTIONS)
        found[backend] = {
            "shaped": [[r.text, r.reason, r.prompt_tokens, r.completion_tokens] for r in shaped],
            "free": [[r.reason, r.detail.split("(", 1)[-1], r.prompt_tokens] for r in free],
            "late": late.reason,
            "numbers": numbers,
        }
        model.close()
    with open(output, "w") as stream:
        json.dump(found, stream)


if __name__ == "__main__":
    main()
