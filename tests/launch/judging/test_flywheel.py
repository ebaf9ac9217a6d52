"""The flywheel: its refusals, where it stops, and a round of seconds."""

import json
import shutil
import signal

import numpy as np
import pytest
from made_up import CATALOG, rows
from whole_runs import here

from recrl.envs.chat.models import Reply
from recrl.envs.chat.scripted import Scripted
from recrl.launch.config.reading import load
from recrl.launch.config.schema import ConfigError
from recrl.launch.judging.flywheel import Plan, _with, _without, judged_reward, parted, spin
from recrl.launch.judging.grading import UngradedError, check_graded
from recrl.launch.report.flywheel import write_report
from recrl.launch.signals import Interruption, Stop
from recrl.rewards.judge.panel import Judge
from recrl.rewards.judge.rubric import Dimension, Rubric


def test_the_reward_of_a_flywheel_is_a_distilled_judge_and_the_objective(tmp_path):
    config = load("flywheel", [f"output={tmp_path}"])
    assert judged_reward(config) == "judge_score"
    with pytest.raises(ConfigError, match="a flywheel maximises one reward judge_score"):
        judged_reward(load("explanations"))
    with pytest.raises(ConfigError, match="a flywheel maximises"):
        judged_reward(load("flywheel", ["optimizer.objective=claim_count", "optimizer.constraints=[]"]))


def test_the_start_knows_no_judge_and_a_round_has_its_own(tmp_path):
    config = load("flywheel", [f"output={tmp_path}"])
    start = _without(config, "judge_score", tmp_path / "start")
    assert "judge_score" not in [spec.name for spec in start.rewards]
    assert (start.train.steps, start.warm_start) == (1, config.warm_start)
    first = _with(config, "judge_score", tmp_path / "round-1")
    (spec,) = [spec for spec in first.rewards if spec.name == "judge_score"]
    assert spec.params["model"] == str(tmp_path / "round-1" / "judge")
    assert first.optimizer == config.optimizer
    alone = load(
        "flywheel", ["rewards=[{name: judge_score, params: {model: x}}]", "optimizer.constraints=[]"]
    )
    with pytest.raises(ConfigError, match="hold something beside it"):
        _without(alone, "judge_score", tmp_path)


def probe(accepted, score):
    users = list(range(len(accepted)))
    return {"users": users, "accepted": accepted, "means": {"score": {"mean": score}}}


def test_reward_and_judge_part_when_one_rises_and_the_other_falls():
    good, worse = [1.0] * 40, [1.0] * 20 + [0.0] * 20
    assert parted(probe(good, 0.5), probe(worse, 0.6))
    assert not parted(probe(good, 0.6), probe(worse, 0.5))  # both fall
    assert not parted(probe(worse, 0.5), probe(good, 0.6))
    assert not parted(probe(good, 0.5), probe([1.0] * 39 + [0.0], 0.6))  # within the interval
    missing = [*good[:-1], np.nan]
    assert parted(probe(missing, 0.5), probe(worse, 0.6))
    assert not parted(probe([np.nan] * 40, 0.5), probe(worse, 0.6))  # no text has both grades


def test_judgements_without_any_grade_are_refused_with_the_reasons():
    shown, texts = rows(0, 4), ["One tea.", "Two teas.", "Three teas.", "Four teas."]
    rubric = Rubric(version=1, dimensions={"tone": Dimension(question="Is it kind?")})

    def judged(answer):
        return Judge(rubric, catalog=CATALOG, model=Scripted(answer))(shown, texts)

    with pytest.raises(
        UngradedError, match=r"graded none of 4 texts; its verdicts are missing: late \(4\); "
    ):
        check_graded(judged(lambda messages: Reply.missing("late", "nothing")))
    answers = iter([Reply.missing("late", "nothing")] * 3 + ['{"evidence": "", "verdict": "defect"}'])
    check_graded(judged(lambda messages: next(answers)))


def test_the_report_shows_the_curve_of_the_probe(tmp_path):
    def one(mean):
        return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}

    pairs = {"judge": {"share": 0.91, "pairs": 100}, "blind": {"share": 0.62, "pairs": 100}}
    rounds = [
        {"superior": one(0.2), "accepted": one(0.6), "agreement": {}},
        {"superior": one(0.4), "accepted": one(0.7), "score": one(0.8), "agreement": pairs},
    ]
    report = write_report(tmp_path, rounds, None).read_text()
    assert (
        "| round 1 | 0.400 [0.350, 0.450] | 0.700 [0.650, 0.750] | 0.800 [0.750, 0.850] | 0.910 | 0.620 |"
        in report
    )
    assert "Human agreement: not measured" in report
    assert "Slacks of the bounds" not in report
    assert (tmp_path / "plots" / "probe.png").stat().st_size > 1000
    rounds[1]["bounds"] = {"tea >= 0.6": {"mean": -0.04, "low": -0.06, "high": -0.02}}
    report = write_report(tmp_path, rounds, 1).read_text()
    assert "parted in round 1" in report
    assert "| tea >= 0.6 | -0.040 [-0.060, -0.020] |" in report


@pytest.mark.slow
def test_a_round_is_graded_distilled_and_trained_and_what_is_missing_is_made_again(
    tmp_path, cache, panel_task
):
    output = tmp_path / "fly"
    command = [
        *("judge", "flywheel", "flywheel", f"output={output}", f"data.cache={cache}"),
        *(
            "warm_start.steps=3",
            "task.max_train_episodes=60",
            "policy.tiny={hidden: 32, layers: 1, vocabulary: 500}",
        ),
        *("train.steps=1", "train.prompts_per_step=4", "train.group_size=4"),
        *("evaluation.max_episodes=8", "evaluation.candidates=2", "evaluation.validation_episodes=60"),
        *("--rounds", "1", "--rows", "16", "--probed", "16", "--steps", "2"),
    ]
    stop, settings = Stop(), load("flywheel", [one for one in command[3:] if "=" in one])
    stop.received = signal.SIGTERM
    with pytest.raises(Interruption) as stopped:
        spin(settings, Plan(rounds=1), stop)
    assert str(stopped.value).endswith("; go on with the same recrl judge flywheel command")
    mute = tmp_path / "mute.py"
    mute.write_text("def mute(row, text, catalog):\n    raise OSError('no lexicon')\n")
    (tmp_path / "mute.yaml").write_text(f"version: 1\ndimensions: {{tone: {{by: '{mute}:mute'}}}}\n")
    said = here(*command, "--rubric", str(tmp_path / "mute.yaml"), code=2)
    assert "the judge graded none of 16 texts; its verdicts are missing: OSError: no lexicon (16);" in said
    here(*command)
    result = json.loads((output / "flywheel.json").read_text())
    assert len(result["rounds"]) == 2
    assert set(result["rounds"][1]) == {"superior", "accepted", "score", "agreement", "bounds"}
    graded = (output / "round-1" / "graded.jsonl").read_bytes()
    config = load(str(output / "round-1" / "run" / "config.yaml"))
    assert config.problem().objective == "judge_score"
    # The policy is chosen by how varied the texts are that are shown, not by how they differ from rollouts.
    (told,) = (json.loads(line) for line in (output / "round-1" / "run" / "validation.jsonl").open())
    slack, shown = told["constraints"]["item_diversity >= 0.6"], told["metrics"]["item_diversity"]
    assert slack["mean"] == pytest.approx(shown["mean"] - 0.6)
    assert slack["episodes"] == shown["episodes"] > 0
    (output / "round-1" / "run" / "probe.json").unlink()
    shutil.rmtree(output / "round-1" / "blind")
    here(*command)
    assert json.loads((output / "flywheel.json").read_text()) == result
    assert (output / "round-1" / "graded.jsonl").read_bytes() == graded
