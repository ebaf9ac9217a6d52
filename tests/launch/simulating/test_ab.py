"""`recrl ab` from the command line: its report opens from disk, and what cannot be is refused in one line."""

import html
import json
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from small_run import TREE
from whole_runs import finished, here

from recrl.envs.simulator.outcomes import METRICS
from recrl.launch.config import plain_yaml
from recrl.launch.simulating.pages import Page

USERS, TAGS = 130, 12


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Output of a small test of two baselines, and the arguments."""
    import datetime as dt

    folder, rng = tmp_path_factory.mktemp("ab"), np.random.default_rng(0)
    likes = rng.beta(1, 4, (USERS, TAGS))
    rows = [
        (f"u{user}", dt.date(2024, 1, 1) + dt.timedelta(weeks=week), f"tag {tag}")
        for week in range(52)
        for user in np.flatnonzero(rng.random(USERS) < 0.6)
        for tag in np.flatnonzero(rng.random(TAGS) < likes[user])
    ]
    pl.DataFrame(rows, schema=["user", "time", "tag"], orient="row").write_parquet(folder / "log.parquet")
    arguments = [
        *(
            "ab",
            "random",
            "own frequency",
            f"data={folder / 'log.parquet'}",
            f"data.cache={folder / 'cache'}",
        ),
        *("task.slots=4", "--output", str(folder / "out"), "--seeds", "2", "--sweep-seeds", "2"),
        *("--weeks", "4", "--scenario", "curious", "--scenario", "curious"),
    ]
    return folder / "out", arguments, here(*arguments)


def test_power_is_said_before_the_test_runs(reported):
    _, _, said = reported
    assert said.index("power of a test on") < said.index("weeks of shoppers")
    assert "report:" in said


def test_every_figure_is_in_the_report(reported):
    output, _, _ = reported
    result = json.loads((output / "ab.json").read_text())
    assert result["arms"] == ["random", "own frequency"]
    assert list(result["metrics"]) == list(METRICS)
    assert list(result["scenarios"]) == ["base", "curious"]
    assert list(result["sweep"]) == ["curious", "neighbours"]
    clicks = result["metrics"]["CTR"]
    assert clicks["difference"]["mean"] == pytest.approx(clicks["b"]["mean"] - clicks["a"]["mean"])
    assert clicks["difference"]["low"] > 0
    assert clicks["verdict"] == "robust"
    text = (output / "report.md").read_text()
    for metric, one in result["metrics"].items():
        assert f"| {metric} | {one['a']['mean']:.4g} | {one['b']['mean']:.4g} |" in text
    for name, value in result["scenarios"]["base"].items():
        assert f"| {name} | {value:g} |" in text


class _References(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone(reported):
    output, _, _ = reported
    page = _References()
    page.feed((output / "report.html").read_text())
    assert not page.open
    pictures = len([*(output / "plots").glob("*.png")])
    assert len(page.found) == pictures == 5
    assert all(value.startswith("data:image/png;base64,") for value in page.found)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Said by the browser: what went wrong, sizes of pictures, what sticks out of the page, out of its cell or
# into the block below, and columns that stand behind the end of their table.
PROBE = """<script>
const wrong = []; addEventListener("error", event => wrong.push(String(event.message)), true);
addEventListener("load", () => {
  const text = one => { const range = document.createRange(); range.selectNodeContents(one);
    return range.getBoundingClientRect(); };
  const cells = [...document.querySelectorAll("th, td")], blocks = [...document.body.children];
  const said = { wrong, width: innerWidth, wide: document.documentElement.scrollWidth - innerWidth,
    pictures: [...document.images].map(one => one.complete && one.naturalWidth),
    out: cells.filter(one => text(one).width > one.clientWidth + 1).map(one => one.innerText),
    over: blocks.filter((one, i) => i && blocks[i - 1].getBoundingClientRect().bottom >
      one.getBoundingClientRect().top + 1).map(one => one.innerText),
    cut: [...document.querySelectorAll("table")].map(one => one.scrollWidth - one.clientWidth) };
  document.title = JSON.stringify(said);
});
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [600, 1280])
def test_a_browser_shows_all_of_the_page(reported, tmp_path, width):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    page = tmp_path / "report.html"
    text = (reported[0] / "report.html").read_text()
    page.write_text(text.replace("<head>", f"<head>{PROBE}", 1))
    settings = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    shown = subprocess.run(
        [browser, *settings, f"--window-size={width},900", "--dump-dom", page.as_uri()],
        **{"capture_output": True, "text": True, "timeout": 120, "check": True},
    ).stdout
    said = json.loads(html.unescape(shown.split("<title>")[1].split("</title>")[0]))
    assert said["width"] == width
    assert said["wrong"] == said["out"] == said["over"] == []
    assert said["wide"] <= 0
    assert len(said["pictures"]) == 5
    assert min(said["pictures"]) > 500
    # Tables of many columns scroll by themselves where the window is narrow.
    assert width < 1000 or max(said["cut"]) <= 0


@pytest.mark.slow
def test_the_policy_of_a_run_is_asked_once_for_each_shopper(reported, tmp_path):
    output, _, _ = reported
    run, data = tmp_path / "run", {"source": str(output.parent / "log.parquet")}
    tree = {**TREE, "output": str(run), "data": {**data, "cache": str(output.parent / "cache")}}
    (tmp_path / "run.yaml").write_text(plain_yaml.write({**tree, "task": {"slots": 4}}))
    finished("train", str(tmp_path / "run.yaml"))
    sizes = [
        "--shoppers",
        "40",
        "--weeks",
        "4",
        "--seeds",
        "2",
        "--sweep-seeds",
        "2",
        "--scenario",
        "curious",
    ]
    here("ab", str(run), "own frequency", *sizes, "--output", str(tmp_path / "ab"))
    result = json.loads((tmp_path / "ab" / "ab.json").read_text())
    assert result["arms"] == [str(run), "own frequency"]
    assert result["plan"]["shoppers"] == 40
    assert result["plan"]["refresh"] == 4
    # A policy after four steps knows less than what a household bought before.
    assert result["metrics"]["CTR"]["difference"]["mean"] > 0


def test_a_report_is_not_replaced_unless_it_is_asked_for(reported):
    output, arguments, _ = reported
    assert f"{output} holds a report already; replace it with --fresh" in here(*arguments, code=2)


def test_who_is_unknown_is_named(reported, tmp_path):
    _, arguments, _ = reported
    others = ["ab", "random", "beste", *arguments[3:5], "--output", str(tmp_path / "new")]
    assert "'beste' is no run folder and no baseline; baselines: quota" in here(*others, code=2)
    weeks = ["ab", "random", "quota", *arguments[3:5], "--output", str(tmp_path / "new"), "--origin", "9"]
    assert "--origin 9: shoppers are fitted on weeks before 36" in here(*weeks, code=2)
    team = ["ab", "random", "quota", "task.use=arbiter", *arguments[3:5], "--output", str(tmp_path / "new")]
    assert "task.use=arbiter: shoppers answer lists of tags" in here(*team, code=2)
    beliefs = [*arguments, "--fresh", "--scenario", "optimist"]
    assert "scenario 'optimist' is unknown" in here(*beliefs, code=2)


def test_words_of_others_mark_nothing_up(tmp_path):
    page = Page("a <b>")
    page.say("<script>alert(1)</script> `x` **y**")
    page.table(["name"], [["<i>"]])
    shown = page.html(tmp_path)
    assert "<script>" not in shown
    assert "<code>x</code> <b>y</b>" in shown
    assert "<td>&lt;i&gt;</td>" in shown
