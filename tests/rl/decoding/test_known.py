"""What a server knows of prompts."""

import torch

from recrl.envs.task import Lines
from recrl.rl.decoding.known import Known, note

FORM = Lines(("soup", "bread", "candy"), 2)


def test_a_prompt_has_its_own_nats_and_barred_options(tmp_path):
    worth = torch.tensor([[0.5, 0.0, -1.0], [0.0, 2.0, 0.25], [0.0, 0.0, 0.0]])
    portions = [([[1, 2], [3]], worth[:2], [[], [1]]), ([[1, 2, 3]], worth[2:], [[0, 2]])]
    noted = note(tmp_path, FORM, 3, portions)
    assert (noted.prompts, noted.shared) == (3, 0)
    known = Known(tmp_path)
    assert known.form == FORM
    for prompt, nats, barred in (
        ([1, 2], [0.5, 0.0, -1.0], []),
        ([3], [0.0, 0.0, 0.25], [1]),
        ([1, 2, 3], [0.0, 0.0, 0.0], [0, 2]),
    ):
        found = known.of(prompt)
        assert found is not None
        assert found[0].tolist() == nats
        assert found[1] == barred
    assert known.of([1]) is None
    assert known.of([2, 1]) is None
    assert known.of([]) is None


def test_users_of_one_prompt_get_the_first_ones_list_and_are_counted(tmp_path):
    worth = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    noted = note(tmp_path, FORM, 3, [([[7], [7], [7]], worth, [[], [], []])])
    assert (noted.prompts, noted.shared) == (1, 1)
    found = Known(tmp_path).of([7])
    assert found is not None
    assert found[0].tolist() == [1.0, 0.0, 0.0]


def test_nobody_may_be_known(tmp_path):
    assert note(tmp_path, FORM, 0, []).prompts == 0
    assert Known(tmp_path).of([7]) is None
