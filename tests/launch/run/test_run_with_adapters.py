"""A run whose policy is trained by adapters, through the command line."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from whole_runs import SMALL, finished, lines

from recrl.launch import cli
from recrl.launch.config import load
from recrl.launch.run import pipeline

CHANGES = {
    "policy": {**SMALL["policy"], "lora": {"rank": 4}},
    "warm_start": {**SMALL["warm_start"], "learning_rate": 0.05},
    "train": {
        **SMALL["train"],
        "warmup_steps": 0,
        "learning_rate": 0.02,
        "kl": 0.05,
        "save_every": 1,
        "report_to": "none",
        "trl": {"epsilon_high": 0.3},
    },
    "evaluation": {"max_episodes": 8, "hold": "off"},
}


@pytest.fixture
def config(tmp_path, cache, panel_task):
    path = tmp_path / "adapters.yaml"
    tree = {**SMALL, **CHANGES, "output": str(tmp_path / "run"), "data": {"cache": str(cache)}}
    path.write_text(yaml.safe_dump(tree))
    return path


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_run_with_adapters_stops_goes_on_and_is_evaluated(config, tmp_path):
    run = tmp_path / "run"
    finished("train", str(config), "train.steps=1")
    warm, first = weights(run / "warm"), weights(run / "policy")
    output = finished("train", str(config), "train.steps=2", "--resume", "auto")
    assert "going on from" in output
    assert [row["step"] for row in lines(run)] == [1, 2]
    # The reference of the KL term is the warm start.
    assert abs(lines(run)[0]["kl"]) < 1e-6 < lines(run)[1]["kl"]
    for name, value in weights(run / "policy").items():
        assert not value.equal(first[name]), name
    assert all(value.abs().sum() > 0 for value in warm.values()), "the warm start trained them"
    for folder in ("warm", "policy"):
        assert not (run / folder / "model.safetensors").exists()
        assert (run / folder / "base" / "model.safetensors").read_bytes() == (
            run / "warm" / "base" / "model.safetensors"
        ).read_bytes()
    assert not list(run.rglob("events.out.tfevents*"))
    assert "warm start" in (run / "report.md").read_text()

    # It may be moved, evaluated again, and be what another run starts from.
    shutil.move(run, tmp_path / "moved")
    changed = ("evaluation.max_episodes=4", "evaluation.hold=auto")
    finished("eval", str(tmp_path / "moved"), *changed, anew=True)
    result = json.loads((tmp_path / "moved" / "evaluation.json").read_text())
    assert result["populations"]["unseen users"]["episodes"] == 4
    other = [f"policy.model={tmp_path / 'moved' / 'policy'}", "policy.lora.merge=true", "warm_start.steps=0"]
    pipeline.train(load(str(config), [*other, "train.steps=1"]))
    assert (run / "policy" / "model.safetensors").exists()
    assert not (run / "policy" / "adapter_config.json").exists()
    begun = weights(run / "warm")
    assert all(value.equal(begun[name]) for name, value in weights(tmp_path / "moved" / "policy").items())

    # Stopped behind its last step, it makes the policy from the checkpoint.
    merged = load_file(run / "policy" / "model.safetensors")
    shutil.rmtree(run / "policy")
    pipeline.train(load(str(config), [*other, "train.steps=1"]), resume="auto")
    again = load_file(run / "policy" / "model.safetensors")
    assert all(value.equal(again[name]) for name, value in merged.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.report_to=[tensorboard, clearml]",
            "train.report_to=clearml needs a package that is not installed",
        ),
        ("train.trl.optim=sgdd", "sgdd is not a valid OptimizerNames"),
        (
            "policy={model: a/b, lora: {}, quantization: 4bit}",
            "policy.quantization=4bit computes on CUDA only",
        ),
        ("policy.attention=flex_attention", "policy.attention=flex_attention trains on CUDA only"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_the_machine_lacks_is_refused_before_anything_is_written(tmp_path, capsys, override, message):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "llm", f"output={tmp_path / 'run'}", override])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
