"""Which settings a resumed run may change."""

import pytest

from recrl.launch.config import changes, plain_yaml
from recrl.launch.config.reading import dump, load
from recrl.launch.config.schema import ConfigError


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "runs" / "config.yaml"
    path.parent.mkdir()
    path.write_text(dump(load("demo")))
    return path


OWN_RATES = ["warm_start.steps=0", "train.learning_rate=1e-5"]
GRAVE = [
    "seed=1",
    "data=other.parquet",
    "data.track=type",
    "data.protocol.window=5",
    "task.slots=5",
    "task.max_history=50",
    "policy=some/model",
    "policy.tiny.hidden=64",
    "policy.dtype=bfloat16",
    "policy.lora.rank=8",
    "policy={model: some/model, revision: v2}",
    "warm_start.steps=10",
    "warm_start.learning_rate=0.1",
    "optimizer.rule=log_lambda",
    "optimizer.objective=diversity",
    "optimizer.constraints=[novelty >= 0.31 (mean)]",
    "optimizer.duals.kp=1",
    "rewards=[recall, novelty, duplicates]",
    "rewards=[novelty, recall, duplicates, validity, length, diversity, alignment]",
    "train.learning_rate=0.1",
    "train.prompts_per_step=16",
    "train.group_size=4",
    "train.micro_batches=2",
    "train.kl=0.1",
    "train.trl.epsilon=0.3",
]
HARMLESS = [
    "name=other",
    "output=elsewhere",
    "data.cache=elsewhere",
    "train.steps=200",
    "train.save_every=7",
    "train.heartbeat=30",
    "train.report_to=none",
    "train.trl.log_completions=true",
    "policy.attention=eager",
    "policy.trust_remote_code=true",
    "evaluation.users=all",
    "evaluation.max_episodes=9",
    "task.cutoffs=[1, 5]",
    "task.sequential=true",
    "rollout=vllm-colocate",
    "rollout.servers=[http://127.0.0.1:9000]",
    "rewards=[recall, novelty, duplicates, validity, length, diversity, {name: alignment, timeout: 5}]",
]


@pytest.mark.parametrize("override", GRAVE)
def test_what_a_checkpoint_depends_on_is_refused(saved, override):
    setting = override.partition("=")[0]
    changed = load("demo", [override, *(OWN_RATES if "some/model" in override else ())])
    with pytest.raises(ConfigError, match="was made with other settings") as error:
        changes.compare(saved, changed, "checkpoint-3")
    assert changes_setting(setting) in str(error.value)
    assert "--fresh" in str(error.value)
    assert "\n" not in str(error.value)


def changes_setting(setting):
    return {"data": "data.source completejourney -> other.parquet", "policy": "policy.model tiny -> "}.get(
        setting, f"{setting} "
    )


@pytest.mark.parametrize("override", HARMLESS)
def test_where_how_long_and_how_often_may_change_and_are_said(saved, override):
    said = changes.compare(saved, load("demo", [override]), "checkpoint-3")
    assert len(said) >= 1
    assert all(" -> " in text for text in said)


def test_the_same_configuration_differs_in_nothing(saved):
    assert changes.compare(saved, load(str(saved)), "checkpoint-3") == []


# Sections that change nothing of what a checkpoint means.
_WHOLE = ("rewards.", "rollout.", "evaluation.", "hybrid.")


def test_every_setting_is_decided_on_by_default_as_grave(saved):
    """A new setting is refused on a resume until somebody says that it is harmless."""
    harmless = [
        name
        for name in changes._flat(load("demo").model_dump(mode="json"))
        if changes._HARMLESS.fullmatch(name) and not name.startswith(_WHOLE)
    ]
    assert set(harmless) <= {
        *("name", "output", "data.cache", "warm_start.save_every"),
        *("train.steps", "train.save_every", "train.heartbeat", "train.collective_timeout"),
        *("train.report_to", "train.trl", "policy.attention", "policy.trust_remote_code"),
        *("task.cutoffs", "task.sequential"),
    }


LATER = {
    "policy": ("revision", "attention", "trust_remote_code", "lora", "quantization"),
    "train": ("report_to", "trl"),
    "task": ("cutoffs", "sequential"),
}


def test_settings_of_an_earlier_version_go_on(saved):
    """Its file lacks the settings that came later; their defaults are what it did."""
    tree = plain_yaml.read(saved.read_text())
    for section, names in LATER.items():
        for name in names:
            del tree[section][name]
    saved.write_text(plain_yaml.write(tree))
    assert changes.compare(saved, load("demo"), "checkpoint-3") == []


def test_adapters_may_be_saved_in_another_way(saved):
    saved.write_text(dump(load("demo", ["policy.lora.rank=8"])))
    now = load("demo", ["policy.lora={rank: 8, merge: true}"])
    assert changes.compare(saved, now, "checkpoint-3") == ["policy.lora.merge False -> True"]


@pytest.mark.parametrize("text", ["name: [", "", "[]", "name: demo\nsurprise: 1\n", "\x00"])
def test_settings_that_cannot_be_compared_are_said(saved, text):
    saved.write_text(text)
    with pytest.raises(ConfigError, match="cannot be compared with the configuration now") as error:
        changes.compare(saved, load("demo"), "checkpoint-3")
    assert "\n" not in str(error.value)


def test_a_saved_configuration_is_read_as_any_other(saved):
    """By YAML 1.1 a person's ``5e-4`` would be text."""
    text = saved.read_text()
    assert "learning_rate: 0.0002" in text
    saved.write_text(text.replace("learning_rate: 0.0002", "learning_rate: 2e-4"))
    assert changes.compare(saved, load("demo"), "checkpoint-3") == []
