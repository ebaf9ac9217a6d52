"""The bench of teams: its arms by hand, what is read, and a report of committed figures."""

import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from places import ROOT

from recrl.benchmarks import BenchmarkError
from recrl.benchmarks.agents import arms, reading, report, tokens, trained
from recrl.benchmarks.agents.measure import CELLS, EXPERTS
from recrl.envs.agents.experts import Asking
from recrl.envs.agents.measures import together, union
from recrl.envs.agents.personas import Persona
from recrl.envs.catalog import Catalog
from recrl.launch.config.reading import dump, load
from recrl.rl import policy
from recrl.rl.policy.loading import save_policy

RESULTS = ROOT / "docs" / "results" / "agents"
OPTIONS, K, M = 100, arms.PERSONAS, arms.SLOTS


@pytest.fixture(scope="module")
def track():
    rng = np.random.default_rng(0)
    scores = rng.random((5, OPTIONS))
    rows = [{"user": i, "origin": 1, "target": [1, 2], "lookback": []} for i in range(5)]
    task = SimpleNamespace(catalog=range(OPTIONS))
    return SimpleNamespace(scores=lambda rows: scores, rows=rows, task=task, best=np.argsort(-scores, axis=1))


def test_arms_have_the_same_budget_of_tags(track):
    named = {
        "one": arms.one_list(track, track.rows),
        "random": arms.disjoint(track, track.rows),
        "flat": arms.flat(track, track.rows, 0.5),
        "alike": arms.flat(track, track.rows, 0.0),
    }
    assert {lists.shape for lists in named.values()} == {(5, K, M)}
    assert np.array_equal(named["one"].reshape(5, -1), track.best[:, : K * M])
    assert (union(named["random"], OPTIONS) <= 1).all()
    duplicate = {
        name: together(track.rows, lists, OPTIONS)["duplicate work"].mean() for name, lists in named.items()
    }
    assert duplicate["one"] == duplicate["random"] == 0
    assert duplicate["alike"] == pytest.approx(1 - 1 / K)
    assert 0 < duplicate["flat"] < duplicate["alike"]


def test_at_the_tokens_of_the_hierarchy_routes_are_fewer_or_their_contexts_shorter(track):
    tags = [f"good {i}" for i in range(OPTIONS)]
    asking = Asking(Catalog(tags), M, "Name some.")
    personas = [Persona((place,), weight=place / 10, cell=(place,)) for place in range(K)]
    row = {
        "prompt": [{"role": "user", "content": "\n".join([*tags[:50], "Name some."])}],
        "history": list(range(50)),
    }
    task = SimpleNamespace(catalog=asking.catalog, settings=SimpleNamespace(max_history=100))
    households = SimpleNamespace(asking=asking, task=task, plans=lambda rows: [personas])

    def words(prompt):  # and a line's break, which is a token of its own
        return sum(len(line.split()) + 1 for one in prompt for line in one["content"].split("\n"))

    found = tokens.Reading.of(households, [row], words)
    prompts = [one["prompt"] for one in asking.rows(row, personas)]
    context, whole, heading = 50 * 3, 50 * 3 + 3, 2
    assert found.flat == [whole]
    assert found.shared == [context + K * 3]
    once = context + heading
    assert found.hierarchy == [once + sum(words(prompt) - once for prompt in prompts)]
    assert found.routes == [found.hierarchy[0] // whole]
    assert found.bought(tokens.FEWER)[1] <= found.hierarchy
    (shown,) = found.shown
    assert shown == list(range(len(shown)))  # the most frequent ones
    assert found.shortened <= found.hierarchy < found.shortened + K * 3


def test_fewer_routes_share_the_tags(track):
    lists = tokens.drawn(track.scores(track.rows), np.array([1, 2, 3, 4, 4]), 0.0)
    assert [(of >= 0).sum(axis=1).tolist() for of in lists] == [
        [60, 0, 0, 0],
        [30, 30, 0, 0],
        [20, 20, 20, 0],
        *[[15, 15, 15, 15]] * 2,
    ]
    assert np.array_equal(lists[0, 0], track.best[0, :60])


def test_a_scorer_of_a_shorter_context_knows_nothing_of_the_rest(panel_task, ranker):
    rows = panel_task.split("test").filter(pl.col("unseen"))[:20].to_dicts()
    task = SimpleNamespace(data=panel_task, catalog=panel_task.catalog)
    households = SimpleNamespace(ranker=ranker, task=task)
    whole = ranker.probabilities(rows)
    told = tokens.shortened(households, rows, [row["history"] for row in rows])
    assert np.allclose(told, whole)
    kept = [row["history"][:5] for row in rows]
    found = tokens.shortened(households, rows, kept)
    for row, shown, before, now in zip(rows, kept, whole, found, strict=True):
        hidden = list(set(row["history"]) - set(shown))
        assert now[hidden].mean() < before[hidden].mean()
        assert now[shown].min() > np.median(now[hidden])


def test_trained_experts_are_compared_on_the_same_personas(cache, panel_task, ranker, tmp_path, monkeypatch):
    monkeypatch.setattr("recrl.envs.agents.expert_task._FITTED", 40)
    runs = [tmp_path / name for name in ("first", "second")]
    for seed, run in enumerate(runs):
        config = load(
            "agents", [f"output={run}", f"name={run.name}", "task.slots=3", "policy.tiny.hidden=32"]
        )
        model, tokenizer = policy.load(config.policy, options=panel_task.catalog.tags, texts=["a"], seed=seed)
        for folder in ("warm", "policy"):
            save_policy(model, tokenizer, run / folder)
        (run / "config.yaml").write_text(dump(config))
    task, folders = trained.policies(runs, cache)
    task.scorer = ranker
    found = trained.compared(task, folders, 3)
    assert (found["episodes"], found["personas"]) == (3, 12)
    own = found["differences"]["warm start"]["first"]  # the same weights
    assert all(of["mean"] == of["low"] == of["high"] == 0 for of in own.values())
    assert found["means"]["second"]["union recall"] != found["means"]["first"]["union recall"]
    assert found["means"]["one list"]["duplicate work"]["mean"] == 0
    assert set(found["differences"]["one list"]) >= {"first", "second"}
    with pytest.raises(BenchmarkError, match="its name=first is taken"):
        trained.check([runs[0], runs[0]])
    with pytest.raises(BenchmarkError, match="no trained policy"):
        trained.check([tmp_path])


def test_a_shared_beginning_is_counted_and_read_once():
    model = reading._decoder(50)
    prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 7, 8, 9]]
    tokens, read = reading._packed(model, prompts)
    assert tokens == 3 + 2 + 1 + 3
    alone, one_by_one = reading._unshared(model, prompts)
    assert alone == 15
    with torch.no_grad():
        packed, rows = read().last_hidden_state, [found.last_hidden_state for found in one_by_one()]
    # The row is [1 2 | 3 4 | 3 6 | 3 7 8], each field as wide as the widest: 6 sees what it sees alone.
    width = 3
    for field, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        at = 2 + field * width
        count = len(prompt) - 3
        assert torch.allclose(packed[0, at : at + count], row[0, 2 : 2 + count], atol=1e-4)


def test_the_committed_report_is_that_of_its_figures(tmp_path):
    figures = [file for file in RESULTS.glob("*.json") if file.stem in (*CELLS, EXPERTS)]
    for file in figures:
        shutil.copy(file, tmp_path)
    assert report.write(tmp_path).read_text() == (RESULTS / "report.md").read_text()
    assert (tmp_path / "plots" / "agents.png").stat().st_size > 10_000
    with pytest.raises(BenchmarkError, match="holds no figures; run recrl bench agents"):
        report.write(tmp_path / "plots")
