"""Rewards of a distilled judge: what the saved model says, calibrated, and the alarm over strange texts."""

import json
import logging

import pytest
import torch

from recrl.rewards import resolve
from recrl.rewards.shipped.judged import ExplanationAcceptance, JudgeScore
from recrl.rl import policy
from recrl.rl.policy.loading import save_policy
from recrl.rl.policy.settings import PolicyConfig
from recrl.rl.reward_model.settings import DistillConfig
from recrl.rl.reward_model.training import Graded, distill

WORDS = ("milk", "bread", "beer")


def asked(word):
    return [{"role": "user", "content": f"Say {word}"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    start, made = tmp_path_factory.mktemp("policy"), tmp_path_factory.mktemp("judge")
    config = PolicyConfig(tiny={"hidden": 32, "layers": 1, "vocabulary": 300})
    model, tokenizer = policy.load(config, options=WORDS, terms=WORDS, texts=["Say please"])
    save_policy(model, tokenizer, start)
    graded = [
        Graded(asked(WORDS[i % 3]), tuple(f"{word} please" for word in WORDS), (i % 3, 1, 2), i)
        for i in range(60)
    ]
    distill(start, tokenizer, graded, DistillConfig(steps=4), {"labels": "made up"}).save(made)
    return made


def test_a_score_is_the_calibrated_logit_of_the_whole_text(folder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    prompts, answers = [asked("milk"), asked("beer")], ["milk please", "beer"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    card = json.loads((folder / "judge.json").read_text())
    for kind, meaning in ((JudgeScore, "score"), (ExplanationAcceptance, "acceptance")):
        scores = kind(str(folder))(prompts, answers)
        scale, shift = card[meaning]["scale"], card[meaning]["shift"]
        for prompt, answer, found in zip(prompts, answers, scores, strict=True):
            text = tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": answer}], tokenize=False
            )
            logit = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item()
            assert found == pytest.approx(torch.tensor(scale * logit + shift).sigmoid().item(), abs=1e-5)


def test_texts_of_another_kind_raise_an_alarm_once(folder, caplog):
    judge = JudgeScore(str(folder))
    usual = [f"{word} please" for word in WORDS] * 10
    with caplog.at_level(logging.WARNING):
        judge([asked(WORDS[i % 3]) for i in range(30)], usual)
        assert "unlike those" not in caplog.text
        strange = ["?!" * 30] * 30
        for _ in range(2):
            judge([asked("milk")] * 30, strange)
    assert caplog.text.count("unlike those") == 1
    assert judge.scored == 90
    assert judge.beyond >= 50


def test_a_folder_that_is_no_distilled_judge_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no distilled judge.*recrl judge distill"):
        JudgeScore(str(tmp_path))
    (tmp_path / "judge.json").write_text('{"score": 3}')
    with pytest.raises(ValueError, match="is no distilled judge"):
        JudgeScore(str(tmp_path))


def test_both_are_found_by_name():
    assert resolve("judge_score").range == resolve("explanation_acceptance").range == (0, 1)
