"""Grades of the agent judge for policies that were trained on either reward: ``python -m
recrl.benchmarks.paper.quality FOLDER``.

``FOLDER/runs/LOSS-SEED`` is a flywheel of one round, whose reward learned by that loss. Its probes hold the
grade of every text; rows are the same for all. ``FOLDER/quality.json`` gets means and differences.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from recrl.envs.storage.sealed import write

from .. import BenchmarkError
from ..rules.summary import Values, pooled

WARM, LOSSES = "warm start", {"list-wise": "list_wise", "point-wise": "point_wise"}
MEASURES = ("superior", "accepted")


def collected(folder: Path) -> dict[str, Any]:
    """Means of each kind of policy, and paired differences; JSON."""
    seeds = sorted(int(path.name.split("-")[1]) for path in (folder / "runs").glob("list_wise-*"))
    runs = {name: [folder / "runs" / f"{loss}-{seed}" for seed in seeds] for name, loss in LOSSES.items()}
    probes = {WARM: [run / "start" for run in runs["list-wise"]]}
    probes |= {name: [run / "round-1" / "run" for run in some] for name, some in runs.items()}
    told = {
        name: [json.loads((probe / "probe.json").read_text()) for probe in some]
        for name, some in probes.items()
    }
    users = np.array(told[WARM][0]["users"])
    if any(one["users"] != users.tolist() for some in told.values() for one in some):
        raise BenchmarkError(
            f"{folder}: probes of different rows; give all flywheels the same --probed and task"
        )

    def values(name: str, measure: str) -> list[Values]:
        return [np.array(one[measure], float) for one in told[name]]

    def apart(one: str, other: str, measure: str) -> dict[str, float]:
        pairs = zip(values(one, measure), values(other, measure), strict=True)
        return vars(pooled([a - b for a, b in pairs], users))

    return {
        "seeds": seeds,
        "rows": len(users),
        "means": {name: {m: vars(pooled(values(name, m), users)) for m in MEASURES} for name in told},
        "differences": {
            f"{one} - {other}": {m: apart(one, other, m) for m in MEASURES}
            for other, one in (*((WARM, name) for name in LOSSES), ("point-wise", "list-wise"))
        },
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write(target / "quality.json", json.dumps(collected(target), indent=1))
    print(f"written: {target / 'quality.json'}")
