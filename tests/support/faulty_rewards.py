"""A reward that goes wrong in the way its config entry names; with two ranks, on rank 1 only."""

import math
import os
import random
import time
from collections import Counter

calls = Counter()
ONE_SAMPLE = {"nan": math.nan, "inf": math.inf, "none": None, "wrong type": "0.5", "out of range": 1.5}


def fault(completions, kind):
    scores = [0.25] * len(completions)
    if os.environ.get("RANK") == "0":
        return scores
    calls[kind] += 1
    if kind in ONE_SAMPLE:
        scores[1] = ONE_SAMPLE[kind]
    elif kind == "raise":
        raise ZeroDivisionError("no views")
    elif kind == "hang":
        time.sleep(30)
    elif kind == "wrong length":
        return scores[1:]
    elif kind == "slow":
        time.sleep(0.2)
    elif kind == "flaky" and calls[kind] % 2:
        raise ConnectionError("try again")
    elif kind == "non-deterministic":
        return [random.random() for _ in completions]
    elif kind == "dies":
        os._exit(7)
    return scores


def well(completions):
    return [0.75] * len(completions)
