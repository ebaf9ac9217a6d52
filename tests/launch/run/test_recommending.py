"""Recommendations and exports of a finished run, from the command line."""

import datetime as dt
import hashlib
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from small_run import settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from whole_runs import SMALL, finished, here, recrl

from recrl.envs.data.settings import DataConfig
from recrl.envs.prompts import arithmetic
from recrl.envs.simulator.ab_test import eligible
from recrl.envs.simulator.arms import Moment
from recrl.envs.simulator.histories import Histories
from recrl.envs.simulator.world import first_time
from recrl.envs.tags.settings import TagsConfig
from recrl.envs.tags.task import Tags
from recrl.launch.run import pipeline, recommending
from recrl.launch.simulating.named import configured
from recrl.launch.simulating.parties import Parties

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache, panel_task) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    bounds = '["novelty >= 0.85 (mean)", "duplicates <= 0.03 (mean)"]'
    return pipeline.train(
        settings(folder / "run", cache, "evaluation.batch_size=16", f"optimizer.constraints={bounds}")
    )


@pytest.fixture(scope="module")
def lists(run, tmp_path_factory):
    """Recommendations to 96 users, and what was said."""
    output = tmp_path_factory.mktemp("lists") / "recs.parquet"
    said = here("recommend", str(run), "--limit", "96", "--output", str(output))
    return output, said


def test_a_run_takes_part_in_a_simulated_test(run, tmp_path):
    names = [str(run), "quota"]
    configs = configured(names, "demo", [], "trained")
    parties = Parties.of(names, configs, 41, "trained", tmp_path, 40)
    users = eligible(parties.task.data, 41)[::60]
    start = Histories.of(parties.task.data.panel, users, 41)
    policy, quota = (arm.lists(Moment(parties.task, start, 41, [])) for arm in parties.arms)
    assert policy.shape == quota.shape == (len(users), 10)
    assert first_time(policy).all()
    # Under the run's own bound, which prices hold.
    rows = np.arange(len(users))[:, None]
    assert start.novel(20)[rows, policy].mean() > 0.75
    assert parties.floors["novelty"] == 0.85


def test_users_now_get_lists_under_the_runs_constraints(lists, cache, panel_task):
    output, said = lists
    table = pl.read_parquet(output)
    assert table.columns == ["user", "items", "novelty", "logprob", "prompt", "origin"]
    assert table.schema["items"] == pl.List(pl.String)
    assert table.height == table["user"].n_unique() == 96
    panel, names = panel_task.panel, panel_task.catalog.tags
    audience = Tags(TagsConfig(), DataConfig(cache=cache)).audience()
    places = {name: number for number, name in enumerate(audience.names)}
    for row in table.iter_rows(named=True):
        assert len(row["items"]) == len(set(row["items"])) == 10
        tags = [names.index(item) for item in row["items"]]
        mine = (panel.user == panel.users.index(row["user"])) & (panel.week >= 33)
        assert row["novelty"] == pytest.approx(np.mean(~np.isin(tags, panel.tag[mine])))
        (asked,) = audience.rows([places[row["user"]]])
        told = json.dumps(asked["prompt"], ensure_ascii=False)
        assert row["prompt"] == hashlib.sha256(told.encode()).hexdigest()[:16]
    assert (table["origin"] == dt.date(2017, 12, 25)).all()
    assert table["logprob"].is_finite().all()
    assert table["logprob"].max() < 0
    about = json.loads(output.with_suffix(".prices.json").read_text())
    novelty, duplicates = about["prices"]
    assert novelty["met"]
    assert novelty["price"] > 0
    assert novelty["free"] < 0.85
    assert novelty["attained"] == pytest.approx(table["novelty"].mean(), abs=1e-6)
    assert novelty["attained"] >= 0.85 - 1e-6
    assert novelty["attained"] == pytest.approx(novelty["held"], abs=1e-6)
    assert duplicates["attained"] == 0
    assert about["origin"] == "2017-12-25"
    assert about["users"] == about["prices fitted on users"] == 96
    assert sum(about["left out"].values()) == 278
    assert "278 users:" in said
    assert "novelty >= 0.85: mean 0.85" in said
    assert {path.name for path in output.parent.iterdir()} == {"recs.parquet", "recs.prices.json"}


def test_a_killed_one_goes_on_and_gives_the_same(lists, run, tmp_path):
    output = tmp_path / "recs.parquet"
    arguments = ("recommend", str(run), "--limit", "96", "--output", str(output))
    asked = tmp_path / ".recs.parquet.asked"
    noted: dict[Path, bytes] = {}
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        process = recrl(*arguments)
        before = sum(map(len, noted.values()))
        while sum(path.stat().st_size for path in asked.glob("*.jsonl")) <= before:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == code, said
        now = {path: path.read_bytes() for path in asked.glob("*.jsonl")}
        for path, content in noted.items():
            if content.count(b"\n") in (96, 8 * 96):  # all users, once or at eight prices
                assert now[path] == content
        noted = now
        assert not output.exists()
    assert "the same command goes on" in said
    here(*arguments)
    assert pl.read_parquet(output).equals(pl.read_parquet(lists[0]))
    mine, other = (path.with_suffix(".prices.json").read_text() for path in (output, lists[0]))
    assert mine == other


def test_two_processes_give_what_one_does(lists, run, tmp_path):
    output = tmp_path / "recs.parquet"
    finished("recommend", str(run), "--limit", "96", "--output", str(output), "--gpus", "2")
    assert pl.read_parquet(output).equals(pl.read_parquet(lists[0]))
    mine, other = (path.with_suffix(".prices.json").read_text() for path in (output, lists[0]))
    assert mine == other
    assert {path.name for path in tmp_path.iterdir()} == {"recs.parquet", "recs.prices.json"}


def test_many_users_are_answered_in_portions_under_prices_of_some(lists, run, tmp_path, monkeypatch):
    monkeypatch.setattr(recommending, "FITTED_ON", 32)
    output = tmp_path / "recs.parquet"
    said = here("recommend", str(run), "--limit", "96", "--output", str(output))
    table, whole = pl.read_parquet(output), pl.read_parquet(lists[0])
    assert table["user"].equals(whole["user"])
    assert table["prompt"].equals(whole["prompt"])
    about = json.loads(output.with_suffix(".prices.json").read_text())
    assert about["prices fitted on users"] == 32
    novelty, _ = about["prices"]
    assert novelty["met"]
    assert novelty["attained"] == pytest.approx(table["novelty"].mean(), abs=1e-6)
    assert novelty["attained"] != pytest.approx(novelty["held"], abs=1e-9)
    assert [done for done in (32, 64, 96) if f"recommending {done}/96" in said] == [32, 64, 96]


def test_a_day_some_users_and_the_warm_start(run, tmp_path, panel_task):
    users = tmp_path / "users.csv"
    users.write_text("user\n" + "\n".join([*panel_task.panel.users[5:40], "nobody"]))
    output = tmp_path / "warm.parquet"
    said = here(
        *("recommend", str(run), "--users", str(users), "--at", "2017-09-13", "--which", "warm"),
        *("--output", str(output), "evaluation.hold=off"),
    )
    table = pl.read_parquet(output)
    assert (table["origin"] == dt.date(2017, 9, 11)).all()
    assert set(table["user"]) <= set(panel_task.panel.users[5:40])
    assert "left out, not in the data: 1 users: nobody" in said
    about = json.loads((tmp_path / "warm.prices.json").read_text())
    assert about["prices"] == []
    assert set(about["not held"].values()) == {"evaluation.hold=off"}
    assert about["policy"] == "warm"


def test_mistakes_are_one_line_before_anything_is_asked(run, lists, tmp_path):
    output, _ = lists
    users = tmp_path / "users.csv"
    users.write_text("household\n1\n")
    new = ("--output", str(tmp_path / "new.parquet"))
    for arguments, said in {
        (str(run), "--output", str(output)): "recs.parquet is there already; replace it with --fresh",
        (str(run), "--output", "recs.csv"): "recommendations are a .parquet file",
        (str(run), "--users", str(users), *new): "has no column 'user'; it has: household",
        (str(run), "--at", "2016-05-05", *new): "the data begin on 2017-01-02",
        (str(tmp_path / "none"), *new): "is no run folder",
        (str(run), "--which", "last", *new): "--which last: unknown; use trained or warm",
    }.items():
        assert said in " ".join(here("recommend", *arguments, code=2).split())
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text((run / "config.yaml").read_text())
    for command in ("recommend", "export", "serve"):
        which = ("--which", "trained") if command == "serve" else ()
        said = here(command, str(unfinished), *which, code=2)
        assert "holds no trained policy yet; go on with: recrl train" in " ".join(said.split())


def test_texts_to_prompts_of_a_file_and_a_reward_that_needs_the_answer_is_left_out(tmp_path):
    arithmetic.main(str(tmp_path / "sums.jsonl"))
    tree = {
        **SMALL,
        "output": str(tmp_path / "run"),
        "task": {
            "use": "prompts",
            "path": str(tmp_path / "sums.jsonl"),
            "reference": "references",
            "max_tokens": 12,
        },
        "rewards": ["number_match", "word_count"],
        "optimizer": {
            "objective": "number_match",
            "constraints": ["word_count <= 4 (mean)", "number_match >= 0.01 (mean)"],
        },
        "evaluation": {"max_episodes": 8, "answers_per_prompt": 1},
    }
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(tree))
    here("train", str(tmp_path / "prompts.yaml"))
    now = tmp_path / "now.jsonl"
    now.write_text(
        "\n".join(json.dumps({"prompt": f"Ann has {n} eggs.", "user": f"u{n}"}) for n in range(20))
    )
    output = tmp_path / "texts.parquet"
    here("recommend", str(tmp_path / "run"), "--users", str(now), "--output", str(output))
    table = pl.read_parquet(output)
    assert table.columns == ["user", "text", "logprob", "prompt", "origin"]
    assert table["user"].to_list() == [f"u{n}" for n in range(20)]
    about = json.loads(output.with_suffix(".prices.json").read_text())
    assert about["origin"] is None
    ((name, why),) = about["not held"].items()
    assert name == "number_match >= 0.01"
    assert why == "number_match is declared serving: false"
    (words,) = about["prices"]
    counted = [len(text.split()) for text in table["text"]]
    assert words["attained"] == pytest.approx(np.mean(counted), abs=1e-6)
    assert math.isfinite(table["logprob"].sum())


def test_an_export_is_a_folder_of_transformers_with_its_card(run, tmp_path):
    output = tmp_path / "policy"
    here("export", str(run), "--output", str(output))
    model, tokenizer = (kind.from_pretrained(output) for kind in (AutoModelForCausalLM, AutoTokenizer))
    own = AutoModelForCausalLM.from_pretrained(run / "policy")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "milk"}], return_tensors="pt")[
        "input_ids"
    ]
    assert (model(ids).logits == own(ids).logits).all()
    card = (output / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert "base_model" not in yaml.safe_load(front)
    result = json.loads((run / "evaluation.json").read_text())
    deployed = result["populations"]["unseen users"]["deployed"]
    recall = deployed["metrics"]["trained"]["recall@10"]
    shown = f"{recall['mean']:.3f} [{recall['low']:.3f}, {recall['high']:.3f}]"
    (row,) = [line for line in body.splitlines() if line.startswith("| **trained** |")]
    assert shown in row
    for word in ("maximise **recall** subject to **novelty >= 0.85 (mean)**", "| quota |", "## Limits",
                 "## Prices of what is shown", "labels it simulated"):  # fmt: skip
        assert word in body, word
    assert json.loads((output / "catalog.json").read_text())["tags"]
    said = here("export", str(run), "--output", str(output), code=2)
    assert "is there already; replace it with --fresh" in " ".join(said.split())
    here("export", str(run), "--output", str(output), "--which", "warm", "--fresh")
    assert "The warm start policy of a run" in (output / "README.md").read_text()
    said = here("export", str(run), "--output", str(run / "plots"), "--fresh", code=2)
    assert "holds no exported policy" in " ".join(said.split())
    said = here("export", str(run), "--output", str(tmp_path / "x"), "--push-to-hub", "a/b/c", code=2)
    assert "--push-to-hub a/b/c" in said
    assert not (tmp_path / "x").exists()


def test_an_export_merges_adapters(tmp_path, cache, panel_task):
    pytest.importorskip("peft")
    folder = pipeline.train(settings(tmp_path / "run", cache, "policy.lora.rank=2", "evaluation.hold=off"))
    assert (folder / "policy" / "adapter_config.json").exists()
    finished("export", str(folder), anew=True)
    exported = tmp_path / "run-export"
    assert not (exported / "adapter_config.json").exists()
    whole = AutoModelForCausalLM.from_pretrained(exported)
    from peft import AutoPeftModelForCausalLM

    adapted = AutoPeftModelForCausalLM.from_pretrained(folder / "policy").eval()
    ids = AutoTokenizer.from_pretrained(exported)("milk", return_tensors="pt")["input_ids"]
    assert (whole(ids).logits - adapted(ids).logits).abs().max() < 1e-5
