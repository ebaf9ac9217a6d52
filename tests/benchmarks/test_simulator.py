"""The report of the simulator's measurements: what is there, and what is missing."""

import json

from typer.testing import CliRunner

from recrl.benchmarks.simulator.cli import app
from recrl.benchmarks.simulator.measure import copied
from recrl.benchmarks.simulator.report import report
from recrl.envs.simulator.histories import Histories

SAME = {"CTR": {"tests": 400, "covered": 0.9475, "any look": 0.0125}}
PLANTED = {
    **{"announced": 0.98, "by formula": 0.81, "found": 0.975, "tests": 200, "shoppers": 160},
    **{"relative effect": 0.0201, "interval": [0.94, 0.99]},
    "announced interval": [0.97, 0.99],
}
SPEED = {
    "growth": {
        "1000": {"processor seconds": 0.02, "seconds": 0.1, "bytes": 2**20},
        "100000": {"processor seconds": 2.0, "seconds": 9.0, "bytes": 2**29},
    },
    "peak": 2**30,
    "lived": {"seeds": 20, "processor seconds": 4.0, "seconds": 30.0},
}


def test_what_was_measured_is_told_and_what_was_not_is_named(tmp_path):
    for name, found in (("same", SAME), ("planted", PLANTED), ("speed", SPEED)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"found": found}))
    text = report(tmp_path)
    assert "| CTR | 400 | 94.8 % | 1.2 % |" in text
    assert "resamples of pilots: 0.980 [0.970, 0.990]. Found in 0.975 [0.940, 0.990] of 200 tests" in text
    assert "4.0 processor seconds, 30.0 by the clock; 152,000 shopper-weeks a second" in text
    assert "| 100,000 | 2.00 | 50,000 | 512 |" in text
    assert text.rstrip().endswith("Not measured yet: fidelity, ranking, off_policy, open_bandit.")
    assert (tmp_path / "plots" / "speed.png").stat().st_size > 1000


def test_a_copy_is_what_was_bought_in_most_weeks():
    state = Histories.new([0, 1], 4, 0)
    state.weeks[:] = [[0, 3, 1, 3], [0, 0, 0, 2]]
    assert copied(state, 3, [0.1, 0.2, 0.3, 0.4]).tolist() == [[3, 1, 2], [3, 2, 1]]
    assert copied(state, 4, [0.1, 0.2, 0.3, 0.4]).tolist() == [[3, 1, 2, 0], [3, 2, 1, 0]]


def test_an_unknown_measurement_is_refused_before_anything_is_done(tmp_path):
    said = CliRunner().invoke(app, ["--only", "same,fidelty", "--output", str(tmp_path / "new")])
    assert said.exit_code == 2
    assert "--only fidelty: unknown; use some of fidelity, same" in said.output
    assert not (tmp_path / "new").exists()
