"""A user's way through a team is printed and drawn, whatever its tags are called and whoever is left out."""

from types import SimpleNamespace

from recrl.envs.agents.personas import Persona
from recrl.envs.agents.team import Passage
from recrl.envs.catalog import Catalog
from recrl.launch.run.progress import Display
from recrl.launch.run.tracing import _draw, _say

TASK = SimpleNamespace(catalog=Catalog(["milk $\\frac$", "bread"]))
ROW = {"history": [0, 1], "calendar": "July, summer; ahead: no holiday", "prompt": []}


def passage(**given):
    asked = [{"prompt": [{"role": "user", "content": "<persona>\nweekly\n</persona>"}]}]
    return Passage(ROW, [Persona((0, 1))], asked, [()], [0, 1], **given)


def test_a_user_without_experts_is_shown(tmp_path, capsys):
    # Where no expert has answered, the arbiter was never asked.
    found = passage(seconds={"planner": 0.1, "expert": 0.2}, missing={"expert": "raised"})
    _say(Display(), TASK, "$\\user$", found, 0.3)
    assert "expert was left out: raised" in capsys.readouterr().out
    _draw(TASK, "$\\user$", found, tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 1000
