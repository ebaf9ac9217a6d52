"""The README's diff of a TRL script: what stands before it and after it runs, and logs the same rewards."""

import json
import re

import fixed_rollouts
import pytest
from places import ROOT
from ranks import launch

(DIFF,) = re.findall(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
# A machine without a GPU is said to be one; answers are drawn by TRL, and each rank's log is kept.
HERE = 'GRPOConfig("run", use_cpu=True, seed=1, report_to="none", per_device_train_batch_size=8, '
LORA = "__import__('peft').LoraConfig(target_modules=['q_proj', 'v_proj'], r=2)"


def side(sign):
    """The script before (``-``) or after (``+``)."""
    return "".join(line[1:] + "\n" for line in DIFF.splitlines() if line[:1] in ("", " ", sign))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("script")
    model, tokenizer = fixed_rollouts.policy_and_tokenizer()
    model.save_pretrained(made / "policy")
    tokenizer.save_pretrained(made / "policy")
    rows = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(16)]
    (made / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return made


def placed(script, folder, *, lora=False, options=""):
    script = script.replace("path-or-hub-name", str(folder / "policy"))
    script = script.replace("questions.jsonl", str(folder / "questions.jsonl"))
    script = script.replace('GRPOConfig("run", ', HERE.replace('"run"', repr(str(folder / "run"))))
    more = options + (f"    peft_config={LORA},\n" if lora else "")
    return script.replace("    args=", f"{more}    args=")


def run(script):
    scope = {"__name__": "__main__"}  # as a cell of a notebook
    exec(compile(script, "script", "exec"), scope)
    return [row for row in scope["trainer"].state.log_history if "reward" in row]


def rewards(rows):
    return [{key: row[key] for key in row if key.startswith("rewards/")} for row in rows]


def test_at_most_five_lines_change():
    changed = [line for line in DIFF.splitlines() if line.startswith("+")]
    assert 0 < len(changed) <= 5


@pytest.mark.parametrize("lora", [False, True])
def test_the_same_rewards_are_logged(folder, lora):
    before = run(placed(side("-"), folder, lora=lora))
    after = run(placed(side("+"), folder, lora=lora, options='    prefix_sharing="off",\n'))
    assert len(before) == len(after) == 3
    assert [row.keys() for row in rewards(before)] == [
        {key for key in row if not key.endswith("failed")} for row in rewards(after)
    ]
    # The first answers are the same; then the policies part.
    assert rewards(before)[0] == rewards(after)[0]
    assert rewards(before)[0]["rewards/brevity/mean"] > 0
    assert "constraint/brevity >= 0.8/multiplier" in after[-1]


@pytest.mark.slow
def test_two_processes_run_it_too(folder):
    """With shared prompts, which is the default, and with adapters."""
    script = "import json, sys\n"
    for name in ("whole", "lora"):
        script += placed(side("+"), folder, lora=name == "lora")
        script += (
            f"rank = trainer.accelerator.process_index\nfile = f'{{sys.argv[1]}}/{name}-{{rank}}.json'\n"
        )
        script += "json.dump([trainer.state.log_history, trainer.duals.state_dict()], open(file, 'w'))\n"
    (folder / "two.py").write_text(script)
    output = launch(folder / "out", "ddp", script=folder / "two.py")
    for name in ("whole", "lora"):
        (one, mine), (_, other) = (
            json.loads((output / f"{name}-{rank}.json").read_text()) for rank in (0, 1)
        )
        rows = [row for row in one if "reward" in row]
        assert len(rows) == 3
        assert {"rewards/accuracy/mean", "rewards/brevity/mean", "objective"} <= rows[0].keys()
        assert mine == other
        assert mine["step"] == 3
