"""What stands for the paper's Base: the policy before its warm start, and baselines, on the episodes of
`recrl bench rules`: ``python -m recrl.benchmarks.paper.base RULES OUTPUT``.

``OUTPUT/runs/SEED/warm`` are policies without a warm start; ``OUTPUT/episodes`` gets their values, as those
of the rules are kept, and ``OUTPUT/baselines.npz`` those of baselines.
"""

import sys
from pathlib import Path

import numpy as np

from recrl.launch.config.reading import load

from ..rules.cells import FREE, HELD, Cell, Job
from ..rules.execute import BASE, EPISODES

BASELINES = {"popularity": FREE, "own frequency": FREE, "quota": HELD}
"""Baselines that stand beside it, and the way to answer that they compare with: `quota` meets the floor."""

BESIDE = "baselines.npz"


def cell_of(seed: int) -> Cell:
    """Run of a seed, as the rules name theirs."""
    return Cell("base", None, None, seed)


def seeds_of(folder: Path) -> list[int]:
    """Seeds whose episodes are there."""
    names = (path.stem.split("seed-")[1] for path in (folder / EPISODES).glob("base_seed-*_test.npz"))
    return sorted(int(name.removesuffix("_test")) for name in names)


def measure(rules: Path, output: Path) -> None:
    """Judge the policies of ``output/runs`` as the rules' own are, and the baselines."""
    from recrl.launch.run.progress import Display
    from recrl.launch.run.setup import prepare_setup
    from recrl.rl.evaluation.answers import test_rows

    from ..rules.answers import keep

    for run in sorted((output / "runs").glob("*/config.yaml")):
        cell = cell_of(int(run.parent.name))
        path = output / EPISODES / cell.name
        if not path.with_name(f"{path.name}.json").is_file():
            keep(Job(str(rules / BASE), str(run.parent / "warm"), "test", cell.seed, str(path)))
        print(f"{cell}: judged", flush=True)
    config = load(str(rules / BASE))
    task = prepare_setup(config, Display(enabled=False)).task
    rows, answerers = test_rows(task, config.evaluation), task.baselines(config.floors)
    assert task.headline is not None
    values = {name: task.metrics(rows, answerers[name](rows), dict)[task.headline] for name in BASELINES}
    np.savez_compressed(output / BESIDE, allow_pickle=False, **values)
    print("; ".join(f"{name} {np.nanmean(one):.4f}" for name, one in values.items()), flush=True)


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Path(sys.argv[2]))
