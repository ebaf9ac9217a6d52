"""Every fault on rank 1 of two: both stop together, or both go on."""

import json
import os
import sys
import time
from pathlib import Path

from accelerate.utils import gather_object
from faults import BATCH, FAULTS, engine

from recrl.rewards import RewardError
from recrl.rl.distributed.processes import distributed_state, leave, on_all_or_none

server, output = sys.argv[1], Path(sys.argv[2])
state = distributed_state()
assert state.num_processes == 2
found = {}
for on_error in ("raise", "missing"):
    for fault in FAULTS:
        built = engine(fault, server, on_error)
        # Both begin at once, so that one's start does not count as the other's waiting.
        gather_object([None])
        started = time.monotonic()
        try:
            scores = on_all_or_none(lambda built=built: built.score(["p"] * 4, BATCH, {}, 2), RewardError)
            outcome = {"scores": scores.T.tolist()}
        except RewardError as error:
            outcome = {"error": str(error)}
        found[f"{fault}, {on_error}"] = {**outcome, "seconds": time.monotonic() - started}
        built.close()
leave()
(output / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
