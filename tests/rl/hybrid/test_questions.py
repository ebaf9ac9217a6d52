import polars as pl

from recrl.envs.entities.marks import mark
from recrl.rl.hybrid.questions import Question, questions, spelled, split, without

ENTITIES = pl.DataFrame(
    {
        "title": [f"t{i % 20}, b{i}, c" for i in range(300)],
        "category": ["c"] * 300,
        "type": [f"t{i % 20}" for i in range(300)],
        "brand": ["" if i % 2 else f"b{i}" for i in range(300)],
    }
)


def test_a_question_is_about_a_marked_title_and_its_answer_a_known_attribute():
    asked = questions(ENTITIES, ["t1, b1, c", "t2, b2, c"], 99, seed=0)
    assert {(one.title, one.attribute, one.value) for one in asked} == {
        ("t1, b1, c", "category", "c"),
        ("t1, b1, c", "type", "t1"),
        ("t2, b2, c", "category", "c"),
        ("t2, b2, c", "type", "t2"),
        ("t2, b2, c", "brand", "b2"),
    }, "an unknown brand is not asked for"
    one = Question("t1, b1, c", "type", "t1")
    assert spelled(one.messages)[0]["content"] == "t1, b1, c\nWhat type is this?"
    assert one.answer == "t1\n"


def test_held_out_types_are_held_out_whole_and_strings_besides():
    parts = split(ENTITIES, 0.2)
    assert sum(map(len, parts.values())) == 300
    types = {title.split(",")[0] for title in parts["types"]}
    assert 1 <= len(types) < 10
    assert not types & {title.split(",")[0] for title in parts["seen"] | parts["strings"]}
    assert 20 < len(parts["strings"]) < 100
    assert split(ENTITIES.sample(300, shuffle=True, seed=1), 0.2) == parts


def test_a_prompt_without_some_entities_keeps_the_others():
    prompt = [{"role": "user", "content": f"w1\n{mark('a')}{mark('b')}w2\n{mark('a')}\n</user>\nask"}]
    (left,) = without(prompt, {"a"})
    assert left["content"] == f"w1\n{mark('b')}w2\n\n</user>\nask"
    assert spelled(prompt)[0]["content"] == "w1\na\nb\nw2\na\n</user>\nask"
