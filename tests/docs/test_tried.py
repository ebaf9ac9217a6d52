"""Every command of the README is tried, with the minutes and the memory that it takes."""

import re

from places import ROOT


def commands():
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [
        line.partition("#")[0].strip() for kind, block in blocks if not kind for line in block.splitlines()
    ]
    return [line for line in lines if re.match(r"recrl |python -m recrl", line)]


def test_every_command_of_the_readme_is_tried_with_its_minutes_and_memory():
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", (ROOT / "docs" / "tried.md").read_text(), re.MULTILINE)
    tried = {command: [cell.strip() for cell in cells.split(" | ")] for command, cells in rows}
    assert len(commands()) > 15
    for command in commands():
        how, clock, *_ = tried[command]
        named = re.findall(r"`(tests/\S+\.py)`", how)
        assert clock or named, command
        assert all((ROOT / path).is_file() for path in named)
