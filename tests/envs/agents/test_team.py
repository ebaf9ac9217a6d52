"""A team answers whatever its roles do; what they read, say and miss is counted."""

import json
import re
import time

import numpy as np
import pytest
from chat_server import FAULTS, Faulty, Server
from injections import INJECTIONS
from made_up_household import CATALOG, DATA, VECTORS, row

from recrl.envs.agents.arbiter import Ranker, arbitrated, held, in_turn
from recrl.envs.agents.asked import AskedArbiter, AskedExpert, AskedPlanner, Named, Plan
from recrl.envs.agents.experts import Asking, Scored
from recrl.envs.agents.measures import routes, together
from recrl.envs.agents.planner import Clusters, Household
from recrl.envs.agents.team import Budget, Team, common
from recrl.envs.chat.endpoint import Endpoint
from recrl.envs.chat.scripted import Scripted
from recrl.envs.chat.settings import ChatConfig

SCORES = np.array([0.9, 0.8, 0.3, 0.7, 0.1, 0.05, 0.6, 0.5])
BUYERS = np.arange(8.0)
ASKING = Asking(CATALOG, 2, "Name 4 kinds.")
BUDGET = Budget(personas=2, tags=4, slots=3)
PLAN = {"personas": [{"tags": ["milk", "bread"]}, {"tags": ["litter", "cat food", "unicorn"]}]}
NAMED = {"tags": ["milk", "cat food", "unicorn"]}


def scores(rows):
    return np.tile(SCORES, (len(rows), 1))


def ranker(**options):
    return Ranker(scores, VECTORS, CATALOG, BUYERS, BUDGET.slots, **options)


def team(**roles):
    given = {
        "planner": Clusters(DATA, VECTORS, 2),
        "expert": Scored(scores, CATALOG),
        "arbiter": ranker(),
        **roles,
    }
    return Team(asking=ASKING, budget=BUDGET, **given)


def test_planner_experts_and_arbiter_make_one_answer():
    found = team()
    (passage,) = found.passages([row()])
    assert passage.lists == [(0, 1), (3, 6)]
    assert passage.answer == [0, 1, 3]
    assert found([row()]) == ["milk\nbread\ncat food\n"]
    assert (found.answered, found.missing) == (2, {})
    assert set(passage.seconds) == {"planner", "expert", "arbiter"}


def test_prompts_of_experts_begin_alike_and_end_with_their_persona():
    (passage,) = team().passages([row()])
    first, second = (asked["prompt"] for asked in passage.asked)
    shared = common(first, second)
    assert shared[0] == first[0] == second[0]
    assert shared[1]["content"] == "<user>\nmilk\nbread\ncat food\nlitter\n</user>\n<persona>"
    assert first[1]["content"].endswith("</persona>\n" + second[1]["content"].splitlines()[-1])
    assert "Name 4 kinds." not in first[1]["content"]
    count = sum(len(m["content"].split()) for prompt in (first, second) for m in prompt)
    begun = sum(len(m["content"].split()) for m in shared)
    assert passage.read == (count, count - begun)


def test_a_budget_of_tokens_leaves_out_the_lightest_personas():
    found = team()
    found.budget = Budget(personas=2, tags=4, slots=3, tokens=40)
    (passage,) = found.passages([row()])
    assert [persona.tags for persona in passage.personas] == [(0, 1)]
    assert passage.asked[0]["count"] == 4


def failing(rows):
    raise ValueError("no idea")


def sleepy(rows):
    time.sleep(0.5)
    return []


@pytest.mark.parametrize("role", ["planner", "expert", "arbiter"])
def test_a_role_that_fails_is_left_out_and_counted(role):
    # Without a planner all tags are one persona's; without experts the answer is what is bought most.
    answers = {"planner": [0, 1, 3], "expert": [0, 1, 3], "arbiter": [0, 3, 1]}
    empty = (lambda rows: [[] for _ in rows]) if role == "planner" else (lambda rows: ["" for _ in rows])
    for call, reason in ((failing, "raised"), (sleepy, "late"), (empty, "empty")):
        found = team(**{role: call})
        found.timeouts = {role: 0.05} if call is sleepy else {}
        assert [passage.answer for passage in found.passages([row(), row()])] == [answers[role]] * 2
        assert found.missing == {f"{role}: {reason}": 2}


@pytest.mark.parametrize("role", ["planner", "expert", "arbiter"])
def test_a_role_that_answers_too_few_rows_is_left_out(role):
    found = team(**{role: lambda rows: []})
    assert all(passage.answer for passage in found.passages([row(), row()]))
    assert found.missing == {f"{role}: raised": 2}


def test_a_household_without_a_history_costs_no_other_its_plan():
    nobody = {**row(), "user": 1, "history": [], "history_weight": [], "lookback": []}
    found = team()
    ann, other = found.passages([row(), nobody])
    assert (ann.lists, ann.missing) == ([(0, 1), (3, 6)], {})
    assert other.missing == {"planner": "empty"}
    assert other.answer == [0, 1, 3]
    # One whose purchases nobody knows still has its history.
    (stranger,) = found.passages([{**row(), "user": 1}])
    assert stranger.missing == {}


def test_a_budget_has_a_tag_for_each_persona():
    with pytest.raises(ValueError, match="tags=3 leave some of personas=4 without any"):
        Budget(personas=4, tags=3)


def chat_team(model):
    household = Household(DATA, VECTORS)
    return team(
        planner=AskedPlanner(model, household, CATALOG, 2),
        expert=AskedExpert(model, CATALOG),
        arbiter=AskedArbiter(model, CATALOG, BUDGET.slots),
    )


def scripted(messages):
    return json.dumps(PLAN if "personas" in messages[-1]["content"].splitlines()[-1] else NAMED)


def test_a_language_model_plays_all_roles_and_names_nothing_unknown():
    model = Scripted(scripted)
    (passage,) = chat_team(model).passages([row()])
    assert [persona.tags for persona in passage.personas] == [(0, 1), (3, 6)]
    assert passage.lists == [(0, 3), (0, 3)]
    assert passage.answer == [0, 3]
    assert {role: model.ledger[role].questions for role in ("planner", "expert", "arbiter")} == {
        "planner": 1,
        "expert": 2,
        "arbiter": 1,
    }
    # How many tags are wanted is an instruction, and no part of the data.
    told = [asked[-1]["content"].partition("</episode>")[2] for asked in model.asked]
    assert sum("Name 2." in words for words in told) == 2


def test_a_language_model_may_name_as_many_tags_as_a_budget_has():
    assert len(Named(tags=["milk"] * 60).tags) == 60
    assert len(Plan(personas=[{"tags": ["milk"] * 100}]).personas[0].tags) == 100


@pytest.mark.parametrize("role", ["planner", "expert", "arbiter"])
def test_nine_faults_of_a_role_end_as_documented(serve, role):
    server = serve(Server(Faulty))
    server.good, server.patience = json.dumps(PLAN if role == "planner" else NAMED), 2.0
    config = ChatConfig(url=server.url, model="owl", timeout=0.6, deadline=1.5, backoff=0.01)
    model = Endpoint(config)
    asked = getattr(chat_team(model), role)
    rows = [row(text) for name in FAULTS for text in (f"*{name}*", "good?")]
    found = team(**{role: asked})
    passages = found.passages(rows)
    assert all(passage.answer for passage in passages)
    assert [role in passage.missing for passage in passages] == [True, False] * 9
    # An expert is asked twice a household, each of the others once.
    each = 2 if role == "expert" else 1
    assert model.ledger[role].missing == {
        FAULTS[name]: each * list(FAULTS.values()).count(FAULTS[name]) for name in FAULTS
    }
    assert found.missing == {f"{role}: empty": 9}


def obedient(messages):
    """Does what any instruction says but those that are quoted; a control token begins a message."""
    rendered = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    told = re.split(r"<\|im_start\|>|<\|im_end\|>|\[/?INST\]", rendered)
    outside = "".join(re.sub(r"<(episode|candidates)>.*?</\1>", "", part, flags=re.DOTALL) for part in told)
    return scripted(messages) if outside in obedient.trusted else '{"obey": "somebody else"}'


def test_two_hundred_injections_change_neither_an_instruction_nor_an_answer():
    plain = Scripted(scripted)
    (expected,) = chat_team(plain)([row()])
    obedient.trusted = {
        "".join(
            f"{m['role']}\n" + re.sub(r"<(episode|candidates)>.*</\1>", "", m["content"], flags=re.S) + "\n"
            for m in asked
        )
        for asked in plain.asked
    }
    model = Scripted(obedient)
    found = chat_team(model)
    assert found([row(text) for text in INJECTIONS]) == [expected] * len(INJECTIONS)
    assert found.missing == {}
    # Unquoted, many would have their way: the test can fail.
    raw = [[*asked[:-1], {**asked[-1], "content": text}] for text in INJECTIONS for asked in plain.asked[:1]]
    assert sum('"obey"' in obedient(messages) for messages in raw) > 100


def test_an_arbiter_pays_for_what_is_novel_and_for_what_differs():
    union = arbitrated(row(), [(0, 1, 7), (3, 6)], [0.8, 0.2])
    assert ranker().choose([union]) == [[0, 1, 3]]
    assert ranker(prices={"novelty": 1.0}).choose([union]) == [[6, 7, 0]]
    assert ranker(prices={"diversity": 1.0}).choose([union])[0][:2] == [0, 3]
    rows = [union] * 3
    cheapest = held(
        ranker(),
        rows,
        {"novelty": 0.3},
        lambda lists: {"novelty": np.mean([6 in tags or 7 in tags for tags in lists]) / 3},
    )
    assert cheapest.choose(rows[:1]) == [[0, 1, 6]]
    assert 0.6 + cheapest.prices["novelty"] == pytest.approx(0.7, abs=0.01)


def test_an_arbiter_learns_from_training_households_what_is_bought():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        target = [tag for tag in range(8) if rng.random() < (0.9 if tag in (5, 6, 7) else 0.1)]
        rows.append({**arbitrated(row(), [tuple(rng.permutation(8)[:6].tolist())], [1.0]), "target": target})
    union = arbitrated(row(), [(0, 1, 2, 5, 6, 7)], [1.0])
    flat = Ranker(lambda rows: np.full((len(rows), 8), 0.5), VECTORS, CATALOG, BUYERS, 3)
    assert set(flat.fitted(rows).choose([union])[0]) == {5, 6, 7}


def test_measures_of_routes_by_hand():
    found = routes([[(0, 1), (1, 3)], [(5,), (7, 6)]], 2, 2)
    measured = together([row(), row()], found, len(CATALOG))
    assert measured["duplicate work"].tolist() == [1 / 4, 0]
    assert measured["union recall"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert measured["union recall novel"].tolist() == [0, 1]
    assert measured["exclusive recall"].tolist() == pytest.approx([1 / 3, 1 / 6])
    assert measured["tags"].tolist() == [3, 3]
    assert in_turn([(0, 1), (1, 3), (5,)], 4) == [0, 1, 5, 3]
