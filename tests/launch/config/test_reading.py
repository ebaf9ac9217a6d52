"""A configuration is read strictly, and whatever is wrong with it is one line and exit code 2."""

import os
import sys

import pytest
import yaml
from small_run import TREE

from recrl.launch import cli
from recrl.launch.config import plain_yaml
from recrl.launch.config.reading import dump, load, validate
from recrl.launch.config.schema import ConfigError

SMALL = plain_yaml.write(TREE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("5.0", 5.0),
        ("010", 10),
        ("0x1f", 31),
        ("1_000", 1000),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("2026-13-45", "2026-13-45"),
        ("=", "="),
        ("off", False),
        ("!!str 5", "5"),
        ("", None),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    found = plain_yaml.read(text)
    assert found == value
    assert type(found) is type(value)


def test_what_is_written_is_read_again_by_ourselves_and_by_others():
    texts = ["1e5", "010", "0o7", "1:30", "2026-01-01", "off", "=", "~", "", "<<", "é\n", "-", "*x", "!x"]
    shared = [1, 2]
    values = {
        "texts": texts,
        "numbers": [1e-5, 1e22, -0.0, 10**20, float("inf")],
        "one": shared,
        "two": shared,
    }
    written = plain_yaml.write(values)
    assert plain_yaml.read(written) == values == yaml.safe_load(written)


ALIASES = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold settings .*, not None"),
        (b"- a", r"must hold settings .*, not \['a'\]"),
        (b"name: caf\xe9", "unacceptable character"),
        (b"name: a\0b", "special characters are not allowed"),
        ("name: x".encode("utf-16-le"), "special characters are not allowed"),
        (b"name: [", "expected the node content"),
        (b"name: x\nname: y", "found 'name' twice in one section"),
        (b"train: {steps: 1, steps: 2}", "found 'steps' twice in one section"),
        (b"[" * 10_000, "more than 40 levels"),
        (b"name: &a [*a]", "contains itself"),
        (f"a0: &a0 [x]\n{ALIASES}".encode(), "more than 100,000 values"),
        (f"a0: &a0 {{x: 1}}\n{MERGES}".encode(), "more than 100,000 values"),
        (b"name: !!python/object/apply:os.system [exit]", "found the tag .*python/object"),
        (b"name: !!int x", "found the tag .*int"),
        (b"seed: " + b"9" * 5000, "a number of 5,000 digits"),
        (b"seed: " + b"9" * 400, "seed=9.* must be a whole number"),
        (b"seed: 1e999", "seed=inf: must be a whole number"),
        (b"seed: 1:30", "seed='1:30': must be a whole number"),
        (b"? [1]\n: 2", "unhashable key"),
        (b"1: 2", "unknown setting|should be"),
        (b"--- 1\n--- 2", "another document"),
        (b"x" * 1_000_001, "more than 1,000,000 bytes"),
    ],
    ids=range(22),
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "odd.yaml"
    # Settings of a run before it, so that only what is odd is wrong.
    plain = SMALL.replace("name: small\n", "") if b"name:" in content else SMALL
    path.write_bytes(plain.encode() + content if content.startswith((b"seed", b"1: 2")) else content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(str(path))
    assert str(caught.value).isprintable()
    check_one_line(capsys, ["data", "describe", str(path)])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_encoding_that_names_itself_is_read(tmp_path, encoding):
    path = tmp_path / "config.yaml"
    path.write_bytes(SMALL.replace("name: small", "name: café").encode(encoding))
    assert load(str(path)).name == "café"


def test_what_is_no_readable_file_is_refused_in_one_line(tmp_path, capsys):
    fifo, large = tmp_path / "fifo", tmp_path / "large.yaml"
    os.mkfifo(fifo)
    with large.open("wb") as stream:
        stream.truncate(2**30)
    for path, message in {
        str(tmp_path): "is a folder",
        str(fifo): "no configuration",
        str(large): "more than 1,000,000 bytes",
        "/proc/self/mem": "cannot be read",
        "x" * 5000: "cannot be read: File name too long",
        "a\0b": "cannot be read|no configuration",
        "": "is a folder|no configuration",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load(path)
        check_one_line(capsys, ["train", path])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("=", "is no override"),
        ("=5", "is no override"),
        ("a..b=1", "is no override"),
        ("train.=1", "is no override"),
        (".train=1", "is no override"),
        (f"{'a.' * 5000}b=1", "is no override"),
        ("train.steps=", "has no value; write null for none"),
        ("output= ", "has no value"),
        ("train.steps.x=1", "'steps' is a value in the configuration"),
        (
            "rewards.0.name=x",
            "'rewards' is a list in the configuration, not a section; set rewards as a whole",
        ),
        ("train=5", "train=5: is a section"),
        ("train=null", "train=None: is a section"),
        ("judge=5", "judge=5"),
        ("optimizer=[1]", "is a section"),
        ("train.steps=true", "train.steps=True: must be a whole number from 1 to 10,000,000"),
        ('train.steps="5"', "train.steps='5': must be a whole number"),
        ("train.steps=5.5", "train.steps=5.5: must be a whole number"),
        ("train.temperature=0", "must be a number from 0.01 to 100"),
        ("train.gradient_checkpointing=1", "gradient_checkpointing=1"),
        (f"train.steps={'9' * 100_000}", "a number of 100,000 digits"),
        (f"name={'x' * 100_000}", r"must have at most 100 characters, not 100,000"),
        (f"x={'[' * 10_000}", "more than 40 levels"),
        ("name=\udcff", "special characters are not allowed"),
        ("name=..", "must be a plain name.* for a path use output="),
        ("name=a/b", "must be a plain name"),
        ("name=-x", "must be a plain name"),
        ("name=.x", "must be a plain name"),
        ('name="a\\nb"', "must not hold line breaks"),
        ('output=""', "must not be empty"),
        (f"output={'x' * 300}", "is too long"),
        ("train.micro_batches=5", "do not split"),
        ("policy.tiny.hidden=36", "must be an even multiple"),
        ("policy.tiny={hidden: 8192, layers: 256}", "name a real model"),
        ("train={prompts_per_step: 1000000, group_size: 11}", "11,000,000 answers at once"),
        ("optimizer.gradient_conflict_every=-1", "must be a whole number"),
        ("optimizer.constraints=[novelty >= 0.3 (mean), novelty >= 0.3 (mean)]", "twice"),
        ("optimizer.constraints=[novelty >= 1e999 (mean)]", "is not finite"),
        ("optimizer.constraints=[novelty >= 0.3 -> 0.5 over 10000001 (mean)]", "at most 10,000,000"),
        ("optimizer.constraints=['novelty >= 0.3 (mean, unit=1e-320)']", "1e-30 at least"),
        ("optimizer.objective_unit=0", "objective_unit=0: must be a number"),
        ("rewards=[]", "must have 1 to 1,000 entries"),
        ("rewards=[{name: recall, range: [1, 0]}]", "low < high"),
        ("rewards=[{name: recall, range: [1, 1]}]", "low < high"),
        ("data.protocol.train_origins=[20, 20]", "names 20 twice"),
        ("data.columns={user: a, tag: a}", "data.columns.user and data.columns.tag are both 'a'"),
        ("rollout.servers=[http://a:99999]", "must be an address"),
        ("rollout.servers=[http://a, http://a]", "twice"),
        ("rollout={nccl_port: 65535, servers: [http://a, http://b]}", "past 65535"),
        ("rollout.threads=three", "must name cores"),
        ("judge={url: http://h, model: m, options: {seed: .nan}}", "finite"),
        ("policy.lora=5", "policy.lora=5"),
        ("policy.lora.rank=0", "must be a whole number from 1"),
        ("policy.lora.targets=[]", "must have 1 to 1,000 entries"),
        ("policy.lora.targets=[q_proj, q_proj]", "names 'q_proj' twice"),
        ("policy.lora.target=q_proj", "did you mean 'targets'"),
        ("policy.revision=v2", "policy.revision='v2': policy.model=tiny has none"),
        ("policy.quantization=4bit", "policy.quantization='4bit': policy.model=tiny has none"),
        ("policy={model: a/b, quantization: 4bit}", "quantised weights cannot be trained; train adapters"),
        ("policy.attention=paged", "policy.attention='paged'.*'sdpa'"),
        ("policy.attention=flash_attention_2", "computes in 16 bits; set policy.dtype=bfloat16"),
        ("train.report_to=wand", "knows no tracker 'wand'; give some of azure_ml, .* wandb, or none"),
        ("train.report_to=[none, wandb]", "names none beside others"),
        ("train.trl.beta=0.1", r"train\.trl\.beta=0\.1 cannot be set there: use train\.kl"),
        ("train.trl.epsilom=0.1", "has no field 'epsilom'; did you mean 'epsilon'"),
        ("train.trl.xyzzy=0.1", "has no field 'xyzzy'; known: "),
        ("train.trl.epsilon=high", r"train\.trl\.epsilon='high': input should be a valid number"),
        ("train.trl.epsilon=.nan", "write a finite number"),
        ("train.trl=5", "train.trl=5"),
    ],
)
def test_an_override_that_does_not_fit_is_refused_in_one_line(capsys, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load("demo", [override])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    check_one_line(capsys, ["train", "demo", override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.attention=eager", "train.prefix_sharing=on"], "set policy.attention=sdpa, or train.prefix"),
        (
            ["policy={model: a/b, quantization: 4bit, lora: {}}", "rollout=vllm-colocate"],
            "policy.quantization=4bit with rollout.engine=vllm-colocate: .* set rollout.engine=transformers",
        ),
        (["policy.trust_remote_code=true", "rollout=vllm-server"], "policy.trust_remote_code=True with"),
    ],
)
def test_settings_that_exclude_one_another_are_named_with_the_fix(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load("demo", overrides)
    assert str(caught.value).isprintable()


def check_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """The command line says it in one line, and ends with code 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")


def test_on_and_off_are_words_where_they_are_asked_for():
    settings = ["train.prefix_sharing=off", "rollout.correction=on", "rollout.compiled=on"]
    config = load("demo", [*settings, "evaluation.hold=off"])
    assert config.evaluation.hold == "off"
    assert (config.train.prefix_sharing, config.rollout.correction, config.rollout.compiled) == (
        "off",
        "on",
        True,
    )


@pytest.mark.parametrize(
    "written",
    [
        "[duplicates <= 0.03 (mean, margin=0.005)]",
        "[novelty >= 0.3 (mean, margin=0.02, unit=0.2), duplicates <= 0.03 (mean, margin=0.005)]",
        "[novelty >= 0.3 (mean, unit=0.2), duplicates <= 0.03 (mean)]",
        "['novelty >= 0.3 (mean, unit=0.2)', \"duplicates <= 0.03 (mean)\"]",
    ],
)
def test_commas_within_a_constraint_part_nothing(written):
    found = load("demo", [f"optimizer.constraints={written}"]).optimizer.constraints
    assert ", ".join(found) == written.strip("[]").replace("'", "").replace('"', "")
    assert found[-1].startswith("duplicates <= 0.03")


def test_brackets_within_a_list_of_constraints_are_said_to_need_quotes(capsys):
    with pytest.raises(
        ConfigError, match=r"put quotes around each constraint, such as optimizer\.constraints="
    ):
        load("demo", ["optimizer.constraints=[length in [6, 11] (mean)]"])
    config = load("demo", ['optimizer.constraints=["length in [0.5, 0.9] (mean)"]'])
    assert config.optimizer.constraints == ("length in [0.5, 0.9] (mean)",)


def test_one_name_may_stand_for_a_list_of_names():
    config = load("demo", ["policy.lora.targets=q_proj", "train.report_to=wandb"])
    assert config.policy.lora is not None
    assert config.policy.lora.targets == ("q_proj",)
    assert config.train.report_to == ("wandb",)


def test_a_whole_number_may_be_written_with_a_point():
    assert load("demo", ["train.steps=5.0", "train.learning_rate=1"]).train.steps == 5


def test_a_section_that_is_absent_can_be_given_setting_by_setting(tmp_path):
    path = tmp_path / "saved.yaml"
    path.write_text(dump(load("demo")))
    judge = load(str(path), ["judge.url=http://127.0.0.1:8000/v1", "judge.model=owl"]).judge
    assert judge is not None
    assert judge.model == "owl"


def test_rewards_are_imported_only_where_they_are_asked_for(tmp_path):
    file = tmp_path / "telling.py"
    file.write_text(
        "import sys\nsys.telling = True\ndef r(completions):\n    return [0.0] * len(completions)\n"
    )
    rewards = ["recall", {"name": "r", "use": f"{file}:r", "range": [0, 1]}, {"name": "x", "use": "absent:x"}]
    tree = {
        **TREE,
        "rewards": rewards,
        "optimizer": {"objective": "r", "constraints": ["novelty >= 0.3 (mean)"]},
    }
    config = validate(tree, "test", resolve=False)
    assert config.floors["novelty"] == 0.3
    assert not hasattr(sys, "telling")
    with pytest.raises(ConfigError, match="no module 'absent'"):
        validate(tree, "test")
    assert hasattr(sys, "telling")
    del sys.telling
