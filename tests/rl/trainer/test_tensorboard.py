"""Names of constraints that TensorBoard's filter can pick, and the bound beside them."""

from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerControl, TrainerState, TrainingArguments

from recrl.rl.optimizer.constraints import parse_constraint
from recrl.rl.trainer.tensorboard import FilterableTensorBoard, short_names


def constraints(*written):
    return [c for text in written for c in parse_constraint(text)]


@pytest.mark.parametrize(
    ("written", "short"),
    [
        (["novelty >= 0.3 (mean)", "duplicates <= 0.1 (mean)"], ["novelty", "duplicates"]),
        (["novelty >= 0.3 (mean)", "novelty >= 0.1 where segment=cold (mean)"], ["novelty", "novelty-cold"]),
        (["novelty >= 0.3 (mean)", "novelty >= 0.1 for 0.9 (rate)"], ["novelty", "novelty-rate"]),
        (["length in [6, 11] (mean)"], ["length-least", "length-most"]),
    ],
)
def test_a_short_name_is_the_reward_and_what_tells_it_from_others(written, short):
    assert list(short_names(constraints(*written)).values()) == short


def test_names_that_would_be_the_same_stay_as_they_are():
    held = constraints("novelty >= 0.3 (mean)", "novelty >= 0.1 -> 0.4 over 10 (mean)")
    assert short_names(held) == {c.name: c.name for c in held}


def test_the_events_have_short_names_and_the_bound(tmp_path):
    (held,) = constraints("novelty >= 0.3 (mean)")
    board = FilterableTensorBoard([held], lambda: [SimpleNamespace(name=held.name, bound=0.3)])
    board.tb_writer = SummaryWriter(str(tmp_path))
    state = TrainerState(global_step=7)
    logs = {
        "objective": 0.5,
        f"constraint/{held.name}/slack": -0.1,
        "constraint/other/x": 1.0,
        "reward": None,
    }
    board.on_log(TrainingArguments(output_dir=str(tmp_path)), state, TrainerControl(), logs=logs)
    board.tb_writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    scalars = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert scalars == pytest.approx(
        {
            "train/objective": 0.5,
            "train/constraint/novelty/slack": -0.1,
            "train/constraint/novelty/bound": 0.3,
            "train/constraint/other/x": 1.0,
        }
    )
