"""Evaluations of several seeds, as one report."""

import json

import numpy as np
import pytest
from whole_runs import here

from recrl.launch.hybrid.quality import FILE, OWN, POPULARITY, Episodes, quality

USERS = np.repeat(np.arange(40), 3)
LEVELS = {
    "full text": 0.24,
    "hybrid": 0.22,
    "latest products": 0.23,
    "most frequent products": 0.23,
    "constant slot": 0.1,
    "permuted entities": 0.12,
    POPULARITY: 0.2,
    OWN: 0.26,
}
COST = {
    "tokens": 400.0,
    "ratio": 8.0,
    "entities": 200.0,
    "prefill arithmetic": {"total": 1e9, "attention": 1e8, "adaptor": 1e8},
    "step arithmetic": {"total": 2e9, "attention": 2e8, "adaptor": 1e8},
    "seconds": {"prefill": 0.01, "step": 0.04},
}


@pytest.fixture
def folders(tmp_path):
    """Made-up evaluations of three seeds, the second better by .02 in every arm."""
    made = []
    for seed, more in enumerate((0.0, 0.02, 0.01)):
        random = np.random.default_rng(seed)
        drawn = {arm: level + more + random.normal(0, 0.05, len(USERS)) for arm, level in LEVELS.items()}
        episodes = Episodes(USERS, drawn, {arm: np.full(len(USERS), 0.7 + more) for arm in LEVELS})
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        found = {
            "model": {"name": "base", "weights": 1000},
            "episodes": len(USERS),
            "users": 40,
            "least": 0,
            "long": {"products": 200, "episodes": 60},
            "kept": 30 + seed % 2,
            "products": 300.0,
            "seed": seed,
            "headline": "recall@10",
            **quality([episodes]),
            "costs": dict.fromkeys([*LEVELS][:4], COST),
            "perception": {
                "strings, brand": dict.fromkeys(
                    ("questions", "hybrid", "full text", "majority", "permuted"), 0.5
                )
            },
        }
        (folder / "evaluation.json").write_text(json.dumps(found))
        episodes.save(folder)
        made.append(folder)
    return made


def told(folders, output, code=0):
    said = here("hybrid", "report", *map(str, folders), "--output", str(output), code=code)
    return said if code else (output / "report.md").read_text()


def row(report, name):
    """First row of a name: mean, low and high of its first figure."""
    (line, *_) = [line for line in report.splitlines() if line.startswith(f"| {name} |")]
    return [
        float(n) for n in line.split("|")[2].replace("[", " ").replace("]", " ").replace(",", " ").split()
    ]


def test_seeds_are_told_together_and_one_by_one(folders, tmp_path):
    report = told(folders, tmp_path / "all")
    alone = [row(told([folder], tmp_path / folder.name), "hybrid") for folder in folders]
    mean, low, high = row(report, "hybrid")
    assert mean == pytest.approx(np.mean([one[0] for one in alone]), abs=1e-3)
    assert high - low > alone[0][2] - alone[0][1], "seeds that differ widen an interval"
    assert "bootstraps over users and seeds" in report
    assert "30 or 31 products" in report
    assert all(f"{one[0]:.3f} [{one[1]:.3f}, {one[2]:.3f}]" in report for one in alone)
    assert row(report, "hybrid - full text")[0] == pytest.approx(-0.02, abs=0.01)
    assert (tmp_path / "all" / "plots" / "quality.png").stat().st_size > 5000


def test_without_values_of_every_episode_intervals_are_averaged_and_say_so(folders, tmp_path):
    alone = [json.loads((folder / "evaluation.json").read_text())["recall"]["hybrid"] for folder in folders]
    (folders[0] / FILE).unlink()
    report = told(folders, tmp_path / "all")
    assert "they say nothing of seeds, since seed-0 kept no values of single episodes" in report
    expected = [np.mean([one[end] for one in alone]) for end in ("mean", "low", "high")]
    assert row(report, "hybrid") == pytest.approx(expected, abs=6e-4)


def test_what_is_not_comparable_is_one_line(folders, tmp_path):
    assert "name the folder of each seed once" in told([folders[0], folders[0]], tmp_path / "all", 2)
    assert "recrl hybrid eval" in told([tmp_path / "nothing"], tmp_path / "all", 2)
    path = folders[1] / "evaluation.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "episodes": 7}))
    assert "seed-1 has episodes=7, seed-0 120" in told(folders, tmp_path / "all", 2)
    found["recall"]["hybrid"]["mean"] += 0.1
    path.write_text(json.dumps(found))
    assert "is not of its episodes" in told(folders, tmp_path / "all", 2)
