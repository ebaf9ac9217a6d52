"""Reports of runs that are long over."""

import shutil

from places import ROOT

from recrl.launch.report.write import write

COMMITTED = ROOT / "docs" / "results" / "long"


def test_a_committed_result_still_renders_with_its_figures(tmp_path):
    for name in ("config.yaml", "evaluation.json", "metrics.jsonl"):
        shutil.copy(COMMITTED / name, tmp_path / name)
    (tmp_path / "examples.json").write_text("[]")  # it was not committed
    rendered = write(tmp_path).read_text()
    committed = (COMMITTED / "report.md").read_text()
    figures = committed[: committed.index("## Training")]
    assert figures.count("|") > 100
    assert rendered.startswith(figures)
    assert (tmp_path / "plots" / "deployed-unseen-users.png").stat().st_size > 1000
