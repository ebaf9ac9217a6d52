"""Answers that were noted are given back up to the first line that is not whole."""

import pytest

from recrl.rl.decoding.journal import Journal

TEXTS = ["tag a\ntag b\n", "ünï\u2028", "", "tag c\n"]


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b'["tag a',
        b'["tag a", null]',
        b"7\n",
        b'"ab"\n',
        b"[]\n",
        b'["a", "b"]\n',
        b"[1, 2.0]\n",
        b"\xff\n",
    ],
)
def test_what_is_torn_is_taken_away_and_the_rest_goes_on(tmp_path, torn):
    path = tmp_path / "asked" / "answers.jsonl"
    journal = Journal(path, total=6, batch=2)
    assert journal.begin() == []
    journal.keep(TEXTS[:2])
    journal.keep(TEXTS)
    whole = path.read_bytes()
    path.write_bytes(whole + torn + b'["behind it", null]\n')
    again = Journal(path, total=6, batch=2)
    assert again.begin() == TEXTS, "a batch that is not whole is asked again"
    assert path.read_bytes() == whole
    again.keep([*TEXTS, "x", "y"])
    assert Journal(path, total=6, batch=2).begin() == [*TEXTS, "x", "y"]
