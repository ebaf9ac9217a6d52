"""Texts of logs in the report: they look as they are, and mark nothing up."""

import random
import re

import pytest

from recrl.envs.markdown import code, text

ORDINARY = (
    "soft drinks",
    "own_frequency",
    "frozen novelties/water ice",
    "novelty >= 0.3 where segment=cold",
    "length in [6, 11] (mean)",
    "duplicates <= 0.03",
    "dairy > milk",
    "R&D",
    "user 17: a-b",
    "May, spring; ahead: Memorial Day",
)

MARKED = {
    "a|b": r"a\|b",
    "*bold* _emphasis_": r"\*bold\* \_emphasis\_",
    "__init__": r"\_\_init\_\_",
    "`code`": r"\`code\`",
    "</td><script>": r"\</td>\<script>",
    "<!-- gone -->": r"\<!-- gone -->",
    "&lt;b&gt;": r"\&lt;b\&gt;",
    "[click](https://example.org)": r"[click\](https\://example.org)",
    "![](http://example.org/x.png)": r"![\](http\://example.org/x.png)",
    "www.example.org": r"www\.example.org",
    "~~gone~~": r"\~\~gone\~\~",
    "$x^2$": r"\$x^2\$",
    "a\\|b": r"a\\\|b",
    "one\n\n# two": "one # two",
    "mi\u202elk\x00\x1b[31m": "milk [31m",
}


@pytest.mark.parametrize("ordinary", ORDINARY)
def test_ordinary_names_stay_as_they_are(ordinary):
    assert text(ordinary) == ordinary
    assert code(ordinary) == f"`{ordinary}`"


@pytest.mark.parametrize("marked", MARKED)
def test_what_would_mark_up_is_shown(marked):
    assert text(marked) == MARKED[marked]


def test_code_cannot_be_left():
    assert code("a`b``c\n`") == "`a'b''c '`"


def test_a_shown_text_reads_back():
    """Without the backslashes of Markdown it is what it was, and no mark stands alone."""
    draw, marks = random.Random(0), "\\\\`*|~$_<>&;[]():/w.ab 1#!"
    for _ in range(5000):
        raw = " ".join("".join(draw.choices(marks, k=draw.randint(1, 12))).split())
        shown = text(raw)
        assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown) == raw
        left = re.sub(r"\\[!-/:-@\[-`{-~]", " ", shown)
        assert not re.search(r"[`*|~$]|<[\w/!?]|\]\(|://", left), (raw, shown)
        assert not re.search(r"&#?\w+;", left)
