"""The log of steps, which a resumed run goes on with."""

import json

import pytest

from recrl.launch.run.callbacks import StepLog, read_steps


def steps(path):
    return [row["step"] for row in read_steps(path)]


def test_steps_behind_a_checkpoint_are_written_anew_and_half_a_line_is_nothing_new(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    log = StepLog(path)
    for step in range(1, 6):
        log.append(step, {"loss": 0.5})
    path.write_text(path.read_text()[:-4])
    StepLog(path).begin(4)
    assert steps(path) == [1, 2, 3]
    again = StepLog(path)
    again.append(3, {"loss": 0.25})
    assert [row["loss"] for row in read_steps(path)] == [0.5, 0.5, 0.25]
    assert not caplog.records


@pytest.mark.parametrize(
    "damaged",
    [b'{"st\n', b"7\n", b'{"step": "2"}\n', b'{"step": null}\n', b"\xff\xfe\n", b"[" * 10**5 + b"\n"],
)
def test_a_damaged_line_is_left_out_and_said(tmp_path, caplog, damaged):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step}).encode() + b"\n" for step in (1, 3)]
    path.write_bytes(good[0] + damaged + good[1])
    StepLog(path).begin(9)
    assert steps(path) == [1, 3]
    assert f"{path}, line 2: damaged lines are left out, 1 in all" in caplog.text
