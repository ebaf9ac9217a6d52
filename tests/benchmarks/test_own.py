import json
import textwrap

import numpy as np
import pytest
from scipy.optimize import minimize
from typer.testing import CliRunner

from recrl.benchmarks.conflict import answers as given
from recrl.benchmarks.conflict import cli, empirical, own
from recrl.benchmarks.conflict.suite import BenchmarkError
from recrl.rewards import RewardSpecError

WORDS = ["milk", "bread", "tea", "cheese", "fruit", "rice", "fish", "soap"]
REWARDS = """
    from recrl.rewards import reward

    @reward("{prefix}detail", range=(0, 1))
    def detail(completions):
        return [min(1.0, len(c.split()) / 10) for c in completions]

    @reward("{prefix}brevity", range=(0, 1))
    def brevity(completions):
        return [max(0.0, 1 - len(c) / 60) for c in completions]

    @reward("{prefix}topic", range=(-1, 1))
    def topic(completions, asked):
        return [1.0 if word in c else -1.0 for c, word in zip(completions, asked)]

    @reward("{prefix}same", range=(0, 1))
    def same(completions):
        return [0.5 for _ in completions]
"""
RANGES = {"r": (-1.0, 1.0), "g": (0.0, 1.0), "h": (0.0, 1.0)}


def write_rewards(folder, prefix):
    path = folder / f"{prefix}rewards.py"
    path.write_text(textwrap.dedent(REWARDS.format(prefix=prefix)))
    return path


def write_answers(folder, prompts=15, count=5):
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"Question {i}",
            "asked": str(rng.choice(WORDS)),
            "completions": [" ".join(rng.choice(WORDS, size=rng.integers(1, 10))) for _ in range(count)],
        }
        for i in range(prompts)
    ]
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, rows


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(empirical, "RESAMPLES", 25)


@pytest.fixture(scope="module")
def scores():
    """[prompt, answer, reward], rewards at odds."""
    rng = np.random.default_rng(1)
    r = rng.uniform(-1, 1, size=(20, 6))
    g = (0.5 - 0.4 * r + 0.1 * rng.uniform(-1, 1, size=r.shape)).clip(0, 1)
    return np.stack([r, g, rng.uniform(size=r.shape)], axis=2).astype(np.float32)


def by_dual(r, gains, bounds):
    """Optimum and prices from the dual of the linear programme, by a simplex search over prices."""

    def dual(lam):
        lam = np.maximum(lam, 0)
        return (r + np.tensordot(lam, gains, 1)).max(axis=1).mean() - lam @ bounds

    found = [
        minimize(
            dual, np.full(len(bounds), start), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}
        )
        for start in (0.2, 1.0, 3.0)
    ]
    best = min(found, key=lambda solved: solved.fun)
    return best.fun, np.maximum(best.x, 0)


def test_optimum_and_prices_are_those_of_the_dual(scores):
    found = empirical.empirical("x", scores, RANGES, "r", ["g >= 0.6 (mean)", "h <= 0.3 (mean)"])
    result = empirical.prices(found)
    r, g, h = np.moveaxis(scores.astype(float), 2, 0)
    optimum, prices = by_dual(r, np.stack([g, -h]), np.array([0.6, -0.3]))
    assert result["optimum"]["value"] == pytest.approx(optimum, abs=1e-5)
    assert result["optimum"]["low"] < optimum < result["optimum"]["high"]
    for price, expected in zip(result["price"].values(), prices, strict=True):
        low, high = price["optimal"]
        assert low - 1e-3 <= expected <= high + 1e-3
        assert expected > 0.01
        assert price["low"] <= price["value"] <= price["high"]
    assert result["sampled"]["objective"] == pytest.approx(r.mean())
    assert result["sampled"]["values"] == pytest.approx({"g >= 0.6": g.mean(), "h <= 0.3": h.mean()})
    assert result["attainable"] == pytest.approx(
        {"g >= 0.6": g.max(axis=1).mean(), "h <= 0.3": h.min(axis=1).mean()}
    )


def test_objective_that_can_be_negative_is_shifted_for_the_score_and_reported_as_it_is(scores):
    found = empirical.empirical("x", scores, RANGES, "r", ["g >= 0.6 (mean)"])
    assert found.shift == 1.0
    assert found.known.oracle.objective > 0
    assert found.known.oracle.objective - 1.0 == pytest.approx(empirical.prices(found)["optimum"]["value"])


def test_sweep_goes_from_the_sampling_policy_to_the_most_attainable(scores):
    found = empirical.empirical("x", scores, RANGES, "r", ["g >= 0.6 (mean)"])
    line = empirical.sweep(found, 0)
    r, g, _ = np.moveaxis(scores.astype(float), 2, 0)
    assert line["bound"][0] == pytest.approx(g.mean())
    assert line["bound"][-1] == pytest.approx(g.max(axis=1).mean(), abs=1e-5)
    assert line["sampled"] == pytest.approx([g.mean(), r.mean()])
    for bound, objective in zip(line["bound"][::5], line["objective"][::5], strict=True):
        assert objective == pytest.approx(by_dual(r, g[None], np.array([bound]))[0], abs=1e-4)
    assert (np.diff(line["objective"]) <= 1e-9).all()
    slopes = -np.diff(line["objective"]) / np.diff(line["bound"])
    price = np.array(line["price"])
    assert (price[:-1] - 1e-3 <= slopes).all()
    assert (slopes <= price[1:] + 1e-3).all(), "the price is the slope of the frontier, which is concave"


def test_an_upper_bound_is_swept_downwards_while_the_other_constraint_holds(scores):
    found = empirical.empirical("x", scores, RANGES, "r", ["g >= 0.6 (mean)", "h <= 0.3 (mean)"])
    line = empirical.sweep(found, 1)
    _, g, h = np.moveaxis(scores.astype(float), 2, 0)
    assert line["bound"][0] == pytest.approx(h.mean())
    least, _ = by_dual(-h, g[None], np.array([0.6]))
    assert line["bound"][-1] == pytest.approx(-least, abs=1e-4)


def test_a_rate_is_counted_at_the_rewards_own_precision():
    values = np.array([[[0.1, 0.9], [0.2, 0.8]], [[0.3, 0.9], [0.4, 0.7]]], dtype=np.float32)
    ranges = {"r": (0.0, 1.0), "g": (0.0, 1.0)}
    found = empirical.empirical("x", values, ranges, "r", ["g >= 0.9 for 0.5 (rate)"])
    assert empirical.prices(found)["sampled"]["values"] == {"g >= 0.9 for 0.5": 0.5}
    assert empirical.prices(found)["optimum"]["value"] == pytest.approx((0.2 + 0.3) / 2)


def test_prompts_with_a_missing_reward_are_left_out_and_counted(scores):
    holed = scores.copy()
    holed[3, 1, 1] = np.nan
    holed[5, :, 2] = np.nan  # h plays no part
    found = empirical.empirical("x", holed, RANGES, "r", ["g >= 0.6 (mean)"])
    assert (found.left_out, len(found.known.table)) == (1, len(scores) - 1)


def test_what_no_choice_can_meet_is_said_and_not_priced(scores):
    result = empirical.prices(empirical.empirical("x", scores, RANGES, "r", ["g >= 0.99 (mean)"]))
    assert result["feasible"] is False
    assert "price" not in result
    assert result["attainable"]["g >= 0.99"] == pytest.approx(scores[..., 1].max(axis=1).mean(), abs=1e-6)


def test_conflict_is_measured_within_prompts():
    rng = np.random.default_rng(2)
    level = rng.uniform(size=(200, 1))
    noise = rng.normal(size=(200, 4)) * 0.01
    pair = np.stack([level + noise, level - noise], axis=2).astype(np.float32)
    found = own.conflicts(pair, ["a", "b"], [1.0, 1.0])
    assert found["correlation"][0][1] == pytest.approx(-1, abs=1e-3)
    assert np.corrcoef(pair.reshape(-1, 2).T)[0, 1] > 0.9, "across prompts the sign would be the other one"
    assert found["disagreement"]["a~b"] > 0.99
    assert own.conflicts(pair, ["a", "b"], [1.0, -1.0])["disagreement"]["a~b"] < 0.01


@pytest.mark.parametrize(
    ("constraints", "fault"),
    [
        (["g >= 0.6"], "--objective, --constraint: .* no kind"),
        (["go >= 0.6 (mean)"], "unknown reward 'go'; did you mean 'g'"),
        (["g >= 0.6 where group=new (mean)"], "group=new names a segment"),
        (["g >= 0 for 0.5 (rate)"], "'g >= 0 for 0.5' says the same of all answers"),
    ],
)
def test_constraints_that_cannot_be_used_are_refused(scores, constraints, fault):
    with pytest.raises(BenchmarkError, match=fault):
        empirical.empirical("x", scores, RANGES, "r", constraints)


def test_own_rewards_end_to_end(tmp_path):
    module = write_rewards(tmp_path, "a_")
    path, rows = write_answers(tmp_path)
    folder = tmp_path / "out"
    arguments = ["--rewards", module, "--answers", path, "--output", folder, "--seeds", 1, "--workers", 1]
    arguments += ["--objective", "a_topic", "--constraint", "a_brevity >= 0.5 (mean)", "--quick"]
    result = run(*arguments, "--rules", "lagrangian,single_reward")
    assert result.exit_code == 0, result.output
    summary = json.loads((folder / "own.json").read_text())
    brevity = np.array([[max(0, 1 - len(c) / 60) for c in row["completions"]] for row in rows])
    topic = np.array([[1.0 if row["asked"] in c else -1.0 for c in row["completions"]] for row in rows])
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (brevity, topic))
    correlation = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    names = summary["conflict"]["names"]
    assert summary["conflict"]["correlation"][names.index("a_brevity")][
        names.index("a_topic")
    ] == pytest.approx(correlation, abs=1e-5)
    optimum, _ = by_dual(topic, brevity[None], np.array([0.5]))
    assert summary["problem"]["optimum"]["value"] == pytest.approx(optimum, abs=1e-4)
    assert summary["conflict"]["constant"] == ["a_same"]
    assert summary["conflict"]["dead"]["a_topic"] == pytest.approx(np.mean(np.ptp(topic, axis=1) == 0))
    text = (folder / "report.md").read_text()
    assert "15 prompts with 5 answers each: ready-made, answers.jsonl." in text
    assert f"The optimum is {optimum:.3f} [" in text
    assert "**Never varies within a prompt: a_same.**" in text
    assert {"lagrangian", "single_reward"} == {
        json.loads(line)["rule"] for line in (folder / "results.jsonl").read_text().splitlines()
    }
    for name in ("conflict", "sweeps", "pareto", "profiles", "trajectories-own"):
        assert (folder / "plots" / f"{name}.png").exists()
    other = run(*arguments[:-1], "--quick", "--constraint", "a_detail >= 0.4 (mean)")
    assert other.exit_code == 2
    assert "choose another --output" in other.output


def test_without_constraints_every_pair_gets_its_frontier(tmp_path):
    module = write_rewards(tmp_path, "b_")
    path, _ = write_answers(tmp_path)
    result = run("--rewards", module, "--answers", path, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "own.json").read_text())
    titles = [line["title"] for line in summary["sweeps"]]
    assert titles == ["b_detail against b_brevity", "b_detail against b_topic", "b_brevity against b_topic"]
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_rewards_score_answers_that_a_policy_samples(tmp_path):
    module, tags, prompts = write_rewards(tmp_path, "e_"), tmp_path / "tags.txt", tmp_path / "prompts.jsonl"
    tags.write_text("\n".join(WORDS))
    rows = [{"prompt": f"Name 3 goods for shopper {i}, one a line.", "asked": "milk"} for i in range(4)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "out"
    asked = ("--rewards", module, "--reward", "validity", "--reward", "length,duplicates")
    lists = ("--catalog", tags, "--slots", 3)
    sampling = ("--prompts", prompts, "--policy", "tiny", "--samples", 4, "--max-tokens", 12)
    result = run(*asked, *lists, *sampling, "--output", folder)
    assert result.exit_code == 0, result.output
    summary = json.loads((folder / "own.json").read_text())
    assert summary["conflict"]["names"][-3:] == ["validity", "length", "duplicates"]
    assert summary["source"] == "sampled from `tiny` at temperature 1"
    kept = given.read_answers(folder / "answers.jsonl")
    assert (len(kept.prompts), len(kept.completions[0]), kept.columns) == (4, 4, {"asked": ["milk"] * 4})
    assert len({text for group in kept.completions for text in group}) > 8, "sampled, not repeated"
    again = run(*asked, *lists, "--answers", folder / "answers.jsonl", "--output", tmp_path / "again")
    assert again.exit_code == 0, again.output
    reread = json.loads((tmp_path / "again" / "own.json").read_text())
    assert reread["fingerprint"] == summary["fingerprint"]


def test_a_missing_module_and_one_without_rewards_are_named(tmp_path):
    with pytest.raises(RewardSpecError, match="no module 'no_such_module'"):
        own.declared("no_such_module")
    with pytest.raises(RewardSpecError, match="no reward file"):
        own.declared(str(tmp_path / "absent.py"))
    empty = tmp_path / "empty.py"
    empty.write_text("def score(completions):\n    return [0.0 for _ in completions]\n")
    with pytest.raises(BenchmarkError, match="nothing in it is declared with @reward"):
        own.declared(str(empty))


def test_a_column_that_a_reward_needs_is_named(tmp_path):
    module = write_rewards(tmp_path, "c_")
    path, rows = write_answers(tmp_path)
    path.write_text(
        "".join(json.dumps({k: v for k, v in row.items() if k != "asked"}) + "\n" for row in rows)
    )
    result = run("--rewards", module, "--answers", path, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "reward 'c_topic' needs 'asked', which nothing provides" in result.output


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{"prompt": "a", "completions": ["x"]}], r"row 1 has 1 answers; .* takes 2 or more"),
        ([{"prompt": "a", "answers": ["x", "y"]}], "has no column 'completions'; it has: prompt, answers"),
        ([{"text": "a"}], "row 1 has no 'prompt'; it has: text"),
        ([{"prompt": "a", "n": 1, "completions": ["x", "y"]}, {"prompt": "b"}], "row 2 has no 'n'"),
        ([], "holds no rows"),
    ],
)
def test_answers_that_cannot_be_used_are_refused(tmp_path, rows, fault):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BenchmarkError, match=fault):
        given.read_answers(path)


def test_prompts_with_more_answers_than_others_keep_the_first_ones(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"prompt": "a", "completions": ["1", "2", "3"]}\n{"prompt": "b", "completions": ["4", "5"]}\n'
    )
    assert given.read_answers(path).completions == [["1", "2"], ["4", "5"]]


def test_a_reward_without_variation_cannot_be_constrained(tmp_path):
    module = write_rewards(tmp_path, "d_")
    path, _ = write_answers(tmp_path)
    asked = ("--objective", "d_topic", "--constraint", "d_same >= 0.4 (mean)")
    result = run("--rewards", module, "--answers", path, "--output", tmp_path / "out", *asked)
    assert result.exit_code == 2
    assert "reward 'd_same' says the same of all answers of a prompt" in result.output
    assert "--temperature" in result.output
