"""Personas of a household: who belongs together, with evidence from before the origin alone."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_household import CATALOG, DATA, FOOD, ORIGIN, PETS, VECTORS, row

from recrl.envs.agents.personas import Persona, evidence, shared_out, whole
from recrl.envs.agents.planner import Clusters, Household, purchased


def test_tags_that_are_near_each_other_make_a_persona_with_its_evidence():
    (plan,) = Clusters(DATA, VECTORS, 2)([row()])
    food, pets = plan
    assert (food.tags, pets.tags) == ((0, 1), (3, 6))
    assert food.weight == pytest.approx(30 / 37)
    assert pets.weight == pytest.approx(7 / 37)
    assert set(FOOD) <= set(food.cell)
    assert set(PETS) <= set(pets.cell)
    assert sorted(food.cell + pets.cell) == list(range(len(CATALOG)))
    assert food.weeks == tuple(range(1, 21))
    assert pets.weeks == tuple(sorted({ORIGIN - week for week in (*range(10, 30, 4), 11, 19)}))
    assert food.rhythm == 1
    assert evidence(pets, CATALOG.tags, 9) == [
        "20 % of the purchases, every few weeks, bought lately, most in winter",
        "litter",
        "cat food",
    ]


def test_nothing_from_the_origin_on_is_read():
    early = DATA.panel.week < ORIGIN
    panel = replace(
        DATA.panel, user=DATA.panel.user[early], week=DATA.panel.week[early], tag=DATA.panel.tag[early]
    )
    blind = type(DATA)(panel=panel, catalog=CATALOG)
    assert Clusters(blind, VECTORS, 2)([row()]) == Clusters(DATA, VECTORS, 2)([row()])


def test_fewer_tags_than_personas_make_fewer_personas():
    (plan,) = Clusters(DATA, VECTORS, 9)([row()])
    assert [len(persona.tags) for persona in plan] == [1, 1, 1, 1]


def test_the_clock_tells_tags_apart_that_stand_in_one_place():
    alike = np.ones_like(VECTORS) / np.sqrt(3)
    (plan,) = Clusters(DATA, alike, 2, clock=1.0)([row()])
    assert [persona.tags for persona in plan] == [(0,), (1, 3, 6)]  # milk is bought every week


def test_groups_of_anybody_become_personas():
    plan = Household(DATA, VECTORS).personas(row(), [[6], [0, 1, 3]])
    assert [persona.tags for persona in plan] == [(0, 1, 3), (6,)]
    assert 6 in plan[1].cell
    assert 3 in plan[0].cell


def test_slots_follow_the_weights_and_every_persona_has_one():
    personas = [Persona((0,), weight=weight) for weight in (0.7, 0.29, 0.01)]
    assert shared_out(personas, 10) == [6, 3, 1]
    assert shared_out(personas, 3) == [1, 1, 1]
    assert whole(row(), 8).cell == tuple(range(8))


def test_the_space_of_purchases_has_no_unseen_household(panel_task):
    found = purchased(panel_task)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0)
    panel = panel_task.panel
    kept = ~panel.unseen[panel.user] & (panel.week < panel_task.protocol.statistics_end)
    fewer = replace(panel, user=panel.user[kept], week=panel.week[kept], tag=panel.tag[kept])
    again = purchased(replace(panel_task, panel=fewer))
    assert again @ again.T == pytest.approx(found @ found.T, abs=1e-6)
