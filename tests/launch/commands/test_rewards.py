"""``recrl rewards``: what it lists and shows, and what its check finds in rewards that are not sound."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from recrl.launch.cli import app
from recrl.launch.commands import reward_check
from recrl.launch.commands.rewards import _interval, beside, with_reward
from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError
from recrl.launch.run.drafts import drafted
from recrl.launch.run.progress import Display
from recrl.launch.run.setup import prepare_setup

REWARDS = """
import random
from recrl.rewards import completion_text, reward

def texts(completions):
    return [completion_text(c) for c in completions]

@reward("lines", range=(0, 20))
def lines(completions):
    return [float(len(t.split()) % 20) for t in texts(completions)]

@reward("dice", range=(0, 1))
def dice(completions):
    return [random.random() for _ in completions]

@reward("relative", range=(-100, 100))
def relative(completions):
    lengths = [len(t) for t in texts(completions)]
    return [min(100.0, max(-100.0, n - sum(lengths) / len(lengths))) for n in lengths]

calls = []

@reward("tired", range=(0, 1))
def tired(completions):
    calls.extend(completions)
    return [1 / (1 + len(calls) + len(t)) for t in texts(completions)]

@reward("constant", range=(0, 1))
def constant(completions):
    return [0.5] * len(completions)

@reward("of_the_prompt", range=(0, 1))
def of_the_prompt(prompts):
    return [len(str(p)) % 97 / 97 for p in prompts]

@reward("fragile", range=(0, 1))
def fragile(completions):
    return [1 / len(t.split()) for t in texts(completions)]

@reward("wide", range=(0, 1000))
def wide(completions):
    return [len(t) / 1000 for t in texts(completions)]

@reward("broken", range=(0, 1))
def broken(completions):
    return [2.0] * len(completions)

@reward("greedy", range=(0, 20))
def greedy(completions, target):
    return [len(bought) - len([bought.pop() for _ in bought[5:]]) + len(t) % 9
            for bought, t in zip(target, texts(completions))]

@reward("moody", range=(0, 1))
def moody(completion):
    number = len(completion[0]["content"])
    return 1 / (number % 4) if number % 4 < 3 else 0.4

@reward("spoils", range=(0, 1))
def spoils(completions, history):
    for tags in history:
        tags.append(1)
    return [len(t) % 9 / 9 for t in texts(completions)]

asked = 0

@reward("tires", range=(0, 1))
def tires(completions):
    global asked
    asked += 1
    if asked > 1:
        raise ConnectionError("no more today")
    return [len(t) % 9 / 9 for t in texts(completions)]

@reward("silent", range=(0, 1))
def silent(completions):
    return [None] * len(completions)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "checked_rewards.py"
    path.write_text(REWARDS)
    return path


@pytest.fixture(scope="module")
def found(file, cache, panel_task):
    """Verdicts by what was looked at, of one of the file's rewards or of a shipped one."""
    config = load("demo", ["rewards=[recall, novelty, duplicates]", f"data.cache={cache}"])

    def check(name):
        use = name if name == "recall" else f"{file}:{name}"
        settings, called = with_reward(config, use)
        setup = prepare_setup(settings, Display(False))
        return reward_check.check(setup, called, drafted(setup, 12, 6))

    return check


def verdicts(checked):
    return {finding.what: finding.verdict for finding in checked.findings}


def test_a_sound_reward_passes(found):
    for name in ("lines", "recall"):
        checked = found(name)
        assert not checked.failed
        assert set(verdicts(checked).values()) == {"pass"}
        assert len(checked.scores) == 72
    assert set(checked.correlations) == {"novelty", "duplicates"}
    assert -1 <= checked.correlations["novelty"] < 0  # what was bought before is bought again


@pytest.mark.parametrize(
    ("name", "what", "verdict"),
    [
        ("dice", "determinism", "fail"),
        ("relative", "serial and batched", "fail"),
        ("tired", "determinism", "fail"),
        ("constant", "range", "fail"),
        ("constant", "ties", "fail"),
        ("of_the_prompt", "ties", "fail"),
        ("fragile", "awkward answers", "fail"),
        ("wide", "range", "warn"),
        ("broken", "scores", "fail"),
        ("silent", "range", "fail"),
    ],
)
def test_what_is_wrong_is_found(found, name, what, verdict):
    checked = found(name)
    assert verdicts(checked)[what] == verdict
    assert checked.failed == (verdict == "fail")


def test_one_that_changes_its_arguments_spoils_nothing(found):
    for name in ("greedy", "spoils"):
        assert not found(name).failed


def test_a_fault_of_a_later_call_keeps_what_was_found(found):
    said = verdicts(found("tires"))
    assert (said["range"], said["ties"], said["speed"], said["determinism"]) == (
        "pass",
        "pass",
        "fail",
        "fail",
    )
    assert said["other rewards"] == "warn"


@pytest.mark.parametrize(("limit", "verdict"), [(0.1, "fail"), (0.9, "warn")])
def test_answers_that_it_could_not_score_are_told_from_those_without_a_score(
    file, cache, panel_task, limit, verdict
):
    moody = {"name": "moody", "use": f"{file}:moody", "on_error": "missing", "batch_size": 1}
    rewards = [{**moody, "max_missing": limit}, "recall", "novelty", "duplicates"]
    settings, called = with_reward(load("demo", [f"rewards={rewards}", f"data.cache={cache}"]), "moody")
    setup = prepare_setup(settings, Display(False))
    checked = reward_check.check(setup, called, drafted(setup, 12, 6))
    (said,) = [finding for finding in checked.findings if finding.what == "missing"]
    share = f"{np.isnan(checked.scores).mean():.1%}"
    assert said.verdict == verdict
    assert said.found.startswith(f"{share} of the answers have no score, {share} since it failed")


def test_findings_give_the_figures(found, tmp_path):
    checked = found("wide")
    said = {finding.what: finding.found for finding in checked.findings}
    assert "of the declared [0, 1000]" in said["range"]
    assert "ms for 1,000 samples" in said["speed"]
    assert "12.5%" not in said["ties"]
    checked.save(tmp_path)
    saved = json.loads((tmp_path / "check.json").read_text())
    assert [f["what"] for f in saved["findings"]] == list(said)
    assert (tmp_path / "distribution.png").stat().st_size > 1000


def test_the_exit_code_is_for_ci(file, cache, panel_task, tmp_path):
    options = ["--config", "demo", "--prompts", "4", "--group", "4"]
    rewards = ["rewards=[recall, novelty, duplicates]", f"data.cache={cache}"]

    def code(name, *flags):
        return (
            CliRunner()
            .invoke(app, ["rewards", "check", f"{file}:{name}", *rewards, *options, *flags])
            .exit_code
        )

    assert code("lines") == 0
    assert code("constant") == 1
    assert (code("wide"), code("wide", "--strict")) == (0, 1)


def test_a_reward_that_raises_is_shown_with_its_file_and_line(found, file):
    said = {finding.what: finding.found for finding in found("fragile").findings}
    line = next(i for i, text in enumerate(REWARDS.splitlines(), 1) if "1 / len(t.split())" in text)
    assert f"(raised in {file}:{line})" in said["awkward answers"]


def test_a_function_without_a_range_is_checked_with_one(cache, panel_task, tmp_path):
    path = tmp_path / "bare_rewards.py"
    path.write_text(
        "def bare(completions):\n    return [len(c[0]['content']) % 7 / 7 for c in completions]\n"
    )
    options = [
        "rewards=[recall, novelty, duplicates]",
        f"data.cache={cache}",
        "--prompts",
        "4",
        "--group",
        "4",
    ]
    done = CliRunner().invoke(app, ["rewards", "check", f"{path}:bare", *options, "--range", "0,1"])
    assert done.exit_code == 0, done.output
    assert "configuration: demo" in done.output
    with pytest.raises(ConfigError, match=r"--range 1: give two numbers, such as --range 0,1"):
        _interval("1")


def test_a_check_takes_the_configuration_beside_the_reward(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text("def one(completions):\n    return [0.0] * len(completions)\n")
    use = f"{tmp_path / 'own_rewards.py'}:one"
    assert beside(use) is None
    entry = "{name: mine, use: 'own_rewards.py:one', range: [0, 1], params: {}}"
    own = f"name: own\nrewards: [recall, {entry}]\noptimizer: {{objective: recall}}\n"
    (tmp_path / "b.yaml").write_text(own)
    (tmp_path / "a.yaml").write_text("- no run\n")
    assert beside(use) == str(tmp_path / "b.yaml")
    assert beside(use.replace(":one", ":two")) is None
    monkeypatch.chdir(tmp_path)
    assert beside("mine") == "b.yaml"
    settings, name = with_reward(load("b.yaml"), use, (0.0, 2.0))
    assert name == "mine", "its entry is found"
    assert next(spec.range for spec in settings.rewards if spec.name == "mine") == (0, 2)


def test_the_list_is_readable_at_80_columns():
    listed = CliRunner().invoke(app, ["rewards", "list"], env={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, listed)) <= 80
    (row,) = [i for i, line in enumerate(listed) if line.startswith("duplicates ")]
    assert len(listed[row].split()) > 4, "what it is stands in whole lines, not in a column of words"
    assert "0 to 1, better low, per" in " ".join(listed[row : row + 4])


def test_the_list_and_what_one_declares(file):
    listed = CliRunner().invoke(app, ["rewards", "list"]).stdout
    for name in ("recall", "idf_diversity", "offer_acceptance", "reward_model", "http"):
        assert name in listed
    shown = CliRunner().invoke(app, ["rewards", "show", "duplicates"]).stdout
    assert "lower" in shown
    assert 'constraints: ["duplicates <= ' in shown
    shown = CliRunner().invoke(app, ["rewards", "show", f"{file}:wide"]).stdout
    assert "0 to 1000" in shown
    assert "checked_rewards.py:wide" in shown


def test_what_is_better_low_is_not_maximised():
    rewards = "rewards=[recall, duplicates]"
    with pytest.raises(ConfigError, match=r"objective=duplicates: lower is better; hold it down"):
        load("demo", [rewards, "optimizer.objective=duplicates", "optimizer.constraints=[]"])
    with pytest.raises(ConfigError, match="lower is better"):
        load("demo", [rewards, "optimizer.constraints=['duplicates >= 0.2 (mean)']"])
    weighted = "rewards=[recall, {name: duplicates, weight: 1}]"
    with pytest.raises(
        ConfigError, match="weight=1 of reward 'duplicates': lower is better; give it a negative"
    ):
        load("demo", [weighted, "optimizer.constraints=[]"])
    load("demo", [rewards, "optimizer.constraints=['duplicates in [0.01, 0.1] (mean)']"])


def test_a_reward_that_asks_a_judge_needs_one(tmp_path, cache, panel_task):
    path = tmp_path / "asking_rewards.py"
    path.write_text("async def asking(completion, judge):\n    return float(await judge.ask('How good?'))\n")
    entry = f"{{name: asking, use: '{path}:asking', range: [0, 1]}}"
    options = [f"rewards=[recall, novelty, duplicates, {entry}]", f"data.cache={cache}"]
    with pytest.raises(ConfigError, match=r"a reward reads 'judge', .* set judge\.url and judge\.model"):
        prepare_setup(load("demo", options), Display(False))
    with pytest.raises(ConfigError, match=r"judge\.url='owl': .*must be an address"):
        prepare_setup(load("demo", [*options, "judge={url: owl, model: owl}"]), Display(False))
    with pytest.raises(ConfigError, match=r"unknown setting 'judge\.modle'; did you mean 'model'"):
        load("demo", ["judge={url: 'http://127.0.0.1/v1', model: owl, modle: owl}"])
