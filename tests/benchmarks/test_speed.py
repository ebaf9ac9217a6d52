import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from recrl.benchmarks import BenchmarkError
from recrl.benchmarks.speed import cli, measure, report, steps, summary, workload
from recrl.benchmarks.speed.cells import OURS, QUICK, ROWS, STOCK, Cell, Settings, Sweep, plan
from recrl.benchmarks.speed.messages import Job
from recrl.rl import policy


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def cell(**changes):
    values = {"model": "quick", "prompt": 120, "group_size": 4, "answer": 16, "groups": 2, "kinds": (STOCK,)}
    return Cell(**(values | changes))


# --- which cells ---


def test_a_sweep_is_every_prompt_length_with_every_group_size_and_the_sizes_in_the_middle():
    found = plan(Sweep(sizes=("1M", "smollm2")))
    assert len(found) == 9 + 2
    more = ("trl", "rows", "shared", "trl-nocheckpoint", "shared-checkpoint")
    assert found[0] == Cell("4M", 600, 8, 64, 2, more)
    assert {(c.prompt, c.group_size) for c in found[:9]} == {
        (p, g) for p in (200, 600, 1500) for g in (4, 8, 16)
    }
    assert [(c.prompt, c.group_size) for c in found if c.kinds == more] == [(600, 8), (1500, 8)]
    assert all(c.kinds == ("trl", "rows", "shared") for c in found if c.kinds != more)
    assert [(c.model, c.prompt, c.group_size, c.groups) for c in found[9:]] == [
        ("1M", 600, 8, 2),
        ("smollm2", 600, 8, 1),
    ]


def test_the_limit_counts_the_tokens_that_are_read():
    found = cell(prompt=600, group_size=8, answer=64)
    full = sum(len([*range(600), *range(64)]) for _ in range(8))
    once = len(range(600)) + sum(len(range(64)) for _ in range(8))
    assert found.token_ratio == pytest.approx(full / once)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--model", "7B"), "--model, --sizes: '7B' is unknown"),
        (("--kinds", "trl,vllm"), "--kinds: 'vllm' is unknown; known: trl"),
        (("--group-sizes", "4,1"), r"--group-sizes: \[4, 1\]; give numbers of at least 2"),
        (("--prompt-tokens", "long"), "--prompt-tokens: long; give whole numbers"),
        (("--rollouts", "--kinds", "trl"), "--kinds: 'trl' is unknown; known: expansion"),
        (("--report-only",), "no results in .*speed.json; run the benchmark without --report-only"),
    ],
)
def test_faults_are_one_line_and_name_the_option(arguments, fault, tmp_path):
    found = run("--quick", "--output", tmp_path, *arguments)
    assert found.exit_code == 2
    assert len(found.stderr.strip().splitlines()) == 1
    assert re.search(fault, found.stderr)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(tmp_path):
    assert "--device cuda: torch finds no GPU here" in run("--device", "cuda", "--output", tmp_path).stderr


# --- what they work on ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    workload.save_policy("quick", folder, dtype="float32", seed=3)
    return folder


@pytest.mark.parametrize("tokens", [97, 120, 611, 1500])
def test_prompts_have_exactly_as_many_tokens_and_differ(saved, tokens):
    _, tokenizer = policy.load(policy.PolicyConfig(model=str(saved)))
    rows = workload.prompted_rows(tokenizer, workload.catalog(), 6, tokens, seed=1)
    texts = [
        tokenizer.apply_chat_template(r["prompt"], add_generation_prompt=True, tokenize=False) for r in rows
    ]
    assert {len(tokenizer(text)["input_ids"]) for text in texts} == {tokens}
    assert len(set(texts)) == 6
    assert rows == workload.prompted_rows(tokenizer, workload.catalog(), 6, tokens, seed=1)


def test_a_prompt_that_cannot_be_so_short_is_refused(saved):
    _, tokenizer = policy.load(policy.PolicyConfig(model=str(saved)))
    with pytest.raises(BenchmarkError, match="--prompt-tokens: no prompt of exactly 20 tokens"):
        workload.prompted_rows(tokenizer, workload.catalog(), 1, 20, seed=1)


def test_trls_reward_functions_give_the_engines_scores():
    tags = workload.catalog()
    lists = [[3, 5, 3], [1200, 7], [], [9, 8, 7, 6]]
    completions = [[{"role": "assistant", "content": tags.render(ids) + "no tag\n"}] for ids in lists]
    columns = {
        "target": [[3, 5, 7]] * 2 + [[6, 9]] * 2,
        "lookback": [[5]] * 2 + [[8, 9]] * 2,
        "completion_ids": [[0]] * 4,
    }
    expected = workload.engine(tags).score(["p"] * 4, completions, columns, group_size=2)
    found = [
        function(prompts=["p"] * 4, completions=completions, trainer_state=None, **columns)
        for function in workload.stock_functions(tags, group_size=2)
    ]
    assert np.array_equal(np.array(found, dtype=np.float32).T, expected)
    assert expected[:, 0] == pytest.approx([2 / 3, 1 / 3, 0, 1])  # recall, by hand


def test_every_kind_gets_the_same_weights_prompts_and_arguments(saved, tmp_path):
    found = {}
    for kind in (STOCK, ROWS, OURS):
        (tmp_path / kind).mkdir()
        job = Job(kind, cell(), saved, tmp_path / kind, steps=2, seed=5, device="cpu", threads=1)
        found[kind] = steps._trainer(job)
    stock = found[STOCK]
    assert stock.args.gradient_checkpointing
    assert stock.reward_func_names == list(found[OURS].engine.names)
    batch = next(iter(stock.get_train_dataloader()))
    assert len({str(row["prompt"]) for row in batch}) == 2
    for kind in (ROWS, OURS):
        ours = found[kind]
        same = zip(stock.model.named_parameters(), ours.model.named_parameters(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in same)
        assert [row["prompt"] for row in next(iter(ours.get_train_dataloader()))] == [
            row["prompt"] for row in batch
        ]
        mine, theirs = ours.args.to_dict(), stock.args.to_dict()
        assert {name for name in theirs if mine[name] != theirs[name]} <= {
            "gradient_checkpointing",
            # Where and when something is written, outside of a step.
            *("output_dir", "logging_dir", "report_to", "save_strategy", "save_steps", "save_total_limit"),
        }
        assert not ours.args.gradient_checkpointing


# --- figures, by hand ---


def step(whole, rollout=1.0, forward_backward=1.0, peak=100, parts=None):
    return {
        "whole": whole,
        "rollout": rollout,
        "inputs": rollout,
        "forward_backward": forward_backward,
        "answer_tokens": 16.0,
        "peak": peak,
        "device_peak": None,
        "full_rows": None,
        "parts": parts or {},
    }


def record(group_size=4, prompt=120, model="quick"):
    parts = [{"time/rollout": 1.0, "time/forward_backward": 0.5 * k} for k in (1, 1, 2, 2)]
    wholes = [9.0, 2.0, 4.0, 4.0]
    return {
        "cell": cell(kinds=(STOCK, OURS), group_size=group_size, prompt=prompt, model=model).as_json(),
        "parameters": 1_000_000,
        "kinds": {
            STOCK: {"start": {"memory": 50}, "steps": [step(w, peak=300) for w in (99.0, 6.0, 8.0, 20.0)]},
            OURS: {
                "start": {"memory": 50},
                "steps": [step(w, parts=p) for w, p in zip(wholes, parts, strict=True)],
            },
        },
    }


def test_ratios_are_medians_over_the_rounds_that_count():
    found = summary.summarise(record(), warmup=1)
    assert found["medians"][STOCK]["whole"] == 8.0
    assert found["ratios"] == {
        "trl/shared": {
            "whole": {"median": 3.0, "low": 2.0, "high": 5.0},
            "rollout": {"median": 1.0, "low": 1.0, "high": 1.0},
            "forward_backward": {"median": 1.0, "low": 1.0, "high": 1.0},
            "peak": 3.0,
            "net_peak": 5.0,
            "device_peak": None,
        }
    }
    assert found["parts"] == {OURS: {"time/rollout": 1.0, "time/forward_backward": 1.0, "time/other": 2.0}}, (
        "what no part claims of the rounds is 0.5, 2 and 2"
    )


def test_the_report_says_what_the_file_says(tmp_path):
    records = [
        {**found, "summary": summary.summarise(found, 1)}
        for found in [*(record(g, p) for p in (120, 300) for g in (4, 8)), record(8, 300, "1M")]
    ]
    head = {"machine": measure.machine("cpu"), "settings": {**vars(Settings(warmup=1))}}
    (tmp_path / measure.RESULT).write_text(json.dumps({**head, "cells": records}))
    text = report.write(tmp_path).read_text()
    limit = 4 * (120 + 16) / (120 + 4 * 16)
    assert (
        f"| quick, P = 120, G = 4 | {limit:.2f} | 1.00 [1.00, 1.00] | - | 1.00 [1.00, 1.00] | - "
        "| 3.00 [2.00, 5.00] | - | 3.00 | - |" in text
    )
    assert "| P = 300, `trl` | 8.00 s (1.00) | 8.00 s (1.00) |" in text
    assert "## Size of the model, P = 300, G = 8" in text
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "cost-group_size.png",
        "cost-prompt.png",
        "limit.png",
    }


def test_a_kind_that_the_gpu_cannot_hold_is_named_and_the_rest_compared(tmp_path):
    found = record()
    for run_ in found["kinds"].values():
        for taken in run_["steps"]:
            taken["device_peak"] = 5 * 2**20
    found["kinds"][ROWS] = {"start": {"memory": 50}, "steps": [], "fault": "CUDA out of memory. Tried 9 GiB"}
    found["summary"] = summary.summarise(found, 1)
    machine = {**measure.machine("cpu"), "gpu": "a GPU"}
    (tmp_path / measure.RESULT).write_text(
        json.dumps(
            {"machine": machine, "settings": vars(Settings(warmup=1, device="cuda")), "cells": [found]}
        )
    )
    text = report.write(tmp_path).read_text()
    assert "- quick, P = 120, G = 4, `rows`: CUDA out of memory. Tried 9 GiB" in text
    assert "a GPU; bf16" in text
    assert "| peak GPU memory, MiB |" in text
    assert "| quick, P = 120, G = 4, `trl` | 1.000 | 1.000 | 8.000 | 16.0 | 0 | 5 |" in text


def test_tokens_a_second_are_compared_within_a_round(tmp_path):
    steps = {"expansion": [9.0, 4.0, 8.0, 2.0], "server": [9.0, 1.0, 1.0, 1.0]}
    record = {
        "cell": cell(kinds=tuple(steps), answer=10).as_json(),  # 2 prompts, 4 answers each
        "parameters": 1_000_000,
        "kinds": {
            kind: {
                "start": {"memory": 50},
                "steps": [{"hand_over": float(kind == "server"), "sampling": s} for s in seconds],
            }
            for kind, seconds in steps.items()
        },
    }
    record["summary"] = found = summary.summarise(record, warmup=1)
    assert found["tokens_per_second"]["expansion"] == {"median": 20.0, "low": 10.0, "high": 40.0}
    assert found["with_hand_over"]["server"]["median"] == 40.0
    assert found["faster"]["sampling"]["server"] == {"median": 4.0, "low": 2.0, "high": 8.0}
    assert found["faster"]["whole"]["server"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    head = {"machine": measure.machine("cpu"), "settings": {**vars(Settings(warmup=1))}}
    (tmp_path / measure.RESULT).write_text(json.dumps({**head, "cells": [record]}))
    text = report.write(tmp_path).read_text()
    row = "P = 120, G = 4, 2 prompts, `server` | 80 [80, 80] | 4.00 [2.00, 8.00] | 1.00 | 40 [40, 40] | 2.00 "
    assert row in text
    assert (tmp_path / "plots" / "rollouts.png").exists()


# --- a real run ---


@pytest.mark.slow
def test_engines_take_turns_and_every_answer_has_its_tokens(tmp_path):
    """A shorter answer would have stopped the worker."""
    pytest.importorskip("vllm", reason="rollouts on vLLM are optional; `make test` installs it")
    kinds = ("expansion", "prefill", "colocate")
    arguments = ("--quick", "--rollouts", "--kinds", ",".join(kinds), "--output", tmp_path, "--threads", 1)
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    (found,) = measure.read(tmp_path)["cells"]
    assert tuple(found["kinds"]) == kinds
    for kind, run_ in found["kinds"].items():
        assert len(run_["steps"]) == cli.QUICK_WARMUP + cli.QUICK_ROUNDS
        assert all(taken["sampling"] > 0 for taken in run_["steps"])
        assert all((taken["hand_over"] > 1e-3) == (kind == "colocate") for taken in run_["steps"])
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    found = run("--quick", "--output", folder, "--threads", 1)
    assert found.exit_code == 0, found.output
    return folder


@pytest.mark.slow
def test_every_kind_takes_its_steps_and_their_parts_fit(folder):
    (found,) = measure.read(folder)["cells"]
    assert Cell.from_json(found["cell"]) == plan(QUICK)[0]
    for kind, run_ in found["kinds"].items():
        assert len(run_["steps"]) == cli.QUICK_WARMUP + cli.QUICK_ROUNDS
        for taken in run_["steps"]:
            assert 0 < taken["rollout"] <= taken["inputs"] < taken["whole"]
            assert 0 < taken["forward_backward"] <= taken["whole"] - taken["inputs"]
            assert 0 < sum(taken["parts"].values()) <= taken["whole"] or kind == STOCK
            assert QUICK.answer / 2 < taken["answer_tokens"] <= QUICK.answer
            assert run_["start"]["memory"] < taken["peak"]
    last = {kind: run_["steps"][-1] for kind, run_ in found["kinds"].items()}
    assert {kind: found["full_rows"] for kind, found in last.items()} == {
        STOCK: "TRL's trainer",
        ROWS: "train.prefix_sharing=off",
        OURS: None,
    }
    assert last[OURS]["parts"]["time/forward_backward"] == pytest.approx(
        last[OURS]["forward_backward"], rel=0.2, abs=0.02
    ), "the trainer's own clock and the one around it"
    assert "quick, P = 120, G = 4" in (folder / "report.md").read_text()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_finished_cell_is_kept_and_nothing_is_overwritten(folder):
    path = folder / measure.RESULT
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert "holds a result already; go on with --resume" in run("--quick", "--output", folder).stderr
    assert run("--quick", "--output", folder, "--resume", "--threads", 1).exit_code == 0
    other = run("--quick", "--output", folder, "--resume", "--threads", 1, "--rounds", 3)
    assert "differs in its settings (rounds)" in other.stderr
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.slow
def test_a_fault_of_a_worker_surfaces_and_leaves_no_process(tmp_path):
    with pytest.raises(BenchmarkError, match=r"the worker of kind 'trl' failed(.|\n)*no prompt of exactly 9"):
        measure.execute([cell(prompt=9)], Settings(threads=1), tmp_path, lambda *_: None)
    assert not multiprocessing.active_children()
    assert not (tmp_path / measure.RESULT).exists()


PARENT = """
import sys, time
from pathlib import Path
from recrl.benchmarks.speed.cells import Cell
from recrl.benchmarks.speed.measure import _Worker
from recrl.benchmarks.speed.messages import Job

if __name__ == "__main__":
    cell = Cell("quick", 120, 4, 16, 2, ("trl",))
    worker = _Worker(Job("trl", cell, Path(sys.argv[1]), Path(sys.argv[2]), 1, 0, "cpu", 1))
    worker.answer()
    print(worker._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(saved, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script, saved, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        worker = Path(f"/proc/{int(parent.stdout.readline())}")
        assert worker.exists()
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate()
    deadline = time.monotonic() + 20
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()
