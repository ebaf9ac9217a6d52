"""``recrl hybrid``, stage by stage, small but on the real panel."""

import json
import os
import signal
import time

import pytest
from entities import Hashed
from whole_runs import here, recrl

from recrl.envs.data import products
from recrl.envs.data.settings import DataConfig
from recrl.envs.entities.build import build
from recrl.launch.config import plain_yaml
from recrl.rl import policy
from recrl.rl.policy import slots


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("hybrid")
    warm = {"prompts_per_step": 2, "lists_per_prompt": 2}
    tree = {
        "name": "small",
        "output": str(folder / "run"),
        "data": {"cache": str(cache)},
        "task": {"max_train_episodes": 24, "prompt": {"history": "hybrid", "products": 30}},
        "policy": {
            "model": str(folder / "hybrid" / "policy"),
            "tiny": {"hidden": 32, "layers": 1, "vocabulary": 600},
        },
        "hybrid": {
            "folder": str(folder / "hybrid"),
            "inner": 16,
            "steps": 3,
            "prompts_per_step": 2,
            "questions_per_step": 4,
            "teacher": {"prompts": 6, "answers": 2, "kept": 8},
            "reading": {"products": 5, "short": {"steps": 2, **warm}, "long": {"steps": 2, **warm}},
        },
        "rewards": ["recall", "novelty"],
        "optimizer": {"objective": "recall", "constraints": ["novelty >= 0.3 (mean)"]},
        "train": {"steps": 2, "prompts_per_step": 2, "group_size": 2, "learning_rate": 1e-3, "kl": 0.01},
        "evaluation": {"max_episodes": 4, "hold": "off"},
    }
    path = folder / "config.yaml"
    path.write_text(plain_yaml.write(tree))
    return path


def test_a_stage_without_what_it_needs_is_one_line(config):
    assert "recrl hybrid train" in here("hybrid", "eval", str(config), code=2)
    assert "recrl hybrid base" in here("hybrid", "train", str(config), code=2)
    said = here("hybrid", "base", str(config), "task={use: explanations}", code=2)
    assert "task.use=explanations tells no histories of products" in said
    assert "--engine spark: unknown" in here("hybrid", "store", str(config), "--engine", "spark", code=2)


def killed(asked, folder):
    """The command until its second arm is being answered."""
    process, answers = recrl(*asked), folder / "answers"
    while process.poll() is None and len([*answers.glob("*")]) < 2:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert len([*answers.glob("*")]) in range(2, 6), "it was killed behind its end"


@pytest.mark.slow
def test_the_stages_lead_to_a_policy_that_is_measured_and_trained_on(config, panel_task):
    folder = config.parent / "hybrid"
    found = products.load(DataConfig(), panel_task.panel.users)
    here("hybrid", "base", str(config))
    assert "recrl hybrid store" in here("hybrid", "train", str(config), code=2)
    build(found.table.lazy(), folder / "store", Hashed())
    assert "the base model is there" in here("hybrid", "base", str(config))
    here("hybrid", "train", str(config))
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        *("base", "policy", "store", "teacher"),
    }, "checkpoints are taken away"
    base, trained = (policy.load(policy.PolicyConfig(model=str(folder / n)))[0] for n in ("base", "policy"))
    assert slots.of(base) is None
    assert (base.model.norm.weight == trained.model.norm.weight).all()
    asked = ("hybrid", "eval", str(config), "--episodes", "6", "--questions", "4", "--timed", "1")
    here(*asked)
    told = json.loads((folder / "evaluation.json").read_text())
    assert told["episodes"] == 6
    assert 1 <= told["long"]["episodes"] < 6
    assert told["overlap"]["full text"]["mean"] == 1
    assert told["costs"]["full text"]["tokens"] > 3 * told["costs"]["hybrid"]["tokens"]
    budget = told["costs"]["hybrid"]["tokens"]
    short = max(told["costs"][name]["tokens"] for name in ("latest products", "most frequent products"))
    assert short <= budget, "no dearer than hybrid prompts"
    of_a_product = (told["costs"]["full text"]["tokens"] - budget) / told["products"] + 1
    assert short > budget - 2 * of_a_product, "nor by two products cheaper"
    assert len(told["perception"]) == 8
    killed(asked, folder)
    gone_on, answered = here(*asked), json.loads((folder / "evaluation.json").read_text())
    assert {name: answered[name] for name in ("recall", "overlap", "kept")} == {
        name: told[name] for name in ("recall", "overlap", "kept")
    }
    assert "full text " not in gone_on, "what was answered is not asked again"
    assert "permuted entities 6/6" in gone_on
    report = (folder / "report.md").read_text()
    assert "| hybrid |" in report
    assert "| types, brand | 4 |" in report
    here("train", str(config))
    after = policy.load(policy.PolicyConfig(model=str(config.parent / "run" / "policy")))[0]
    assert slots.of(after) is not None
    here("hybrid", "export", str(config))
    assert slots.of(policy.load(policy.PolicyConfig(model=str(folder / "exported")))[0]) is None
    said = here("train", str(config), "policy.model=tiny", f"output={config.parent / 'other'}", code=2)
    assert "policy.model=tiny has no entity slots" in said
