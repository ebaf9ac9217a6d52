import pytest

from recrl.envs.catalog import INVALID, Catalog


@pytest.mark.parametrize(
    ("line", "tag"),
    [
        ("milk", "milk"),
        ("  MILK  ", "milk"),
        ("1. milk", "milk"),
        ("2) Bread", "bread"),
        ("(3) bread", "bread"),
        ("- soft  drinks", "soft drinks"),
        ("* **Milk**", "milk"),
        ("• milk.", "milk"),
        ('"milk",', "milk"),
        ("`cheese`", "cheese"),
        ("SFT DRINKS", "soft drinks"),
        ("4. sft drinks", "soft drinks"),
        ("ｍｉｌｋ", "milk"),
        ("7 grain bread", "7 grain bread"),
        ("1. 7 grain bread", "7 grain bread"),
    ],
)
def test_a_known_tag_is_read_through_list_markup_case_and_aliases(groceries, line, tag):
    assert groceries.parse(line).slots == (groceries.id(tag),)


@pytest.mark.parametrize(
    "line",
    [
        "milks",
        "milk, bread",
        "oat milk",
        "I suggest: milk",
        "mil",
        "milk (2 l)",
        "drinks",
        "1.",
        "---",
        "milk\tbread",
    ],
)
def test_anything_else_is_invalid_and_never_guessed(groceries, line):
    assert groceries.parse(line).slots == (INVALID,)


def test_a_messy_answer_is_counted_line_by_line(groceries):
    answer = groceries.parse(
        "Sure! Here you go:\n\n1. Milk\n2. Bread\n3. milk\n4. unicorns\n   \n5. Cheeses\n"
    )
    ids = [groceries.id(tag) for tag in ("milk", "bread", "cheeses")]
    assert answer.slots == (INVALID, ids[0], ids[1], ids[0], INVALID, ids[2])
    assert answer.valid == tuple(ids)
    assert (answer.invalid, answer.duplicates) == (2, 1)
    assert answer.top(3) == (ids[0], ids[1])
    assert groceries.parse("").slots == ()


def test_render_and_parse_are_inverse(groceries):
    everything = tuple(range(len(groceries)))
    assert groceries.parse(groceries.render(everything)).slots == everything


def test_a_catalogue_survives_saving(groceries, tmp_path):
    groceries.save(tmp_path / "catalog.json")
    again = Catalog.load(tmp_path / "catalog.json")
    assert again.fingerprint == groceries.fingerprint
    assert again.parse("sft drinks").slots == groceries.parse("sft drinks").slots
    assert again.equivalence_class == groceries.equivalence_class


def test_names_must_be_unique_and_aliases_must_point_somewhere():
    with pytest.raises(ValueError, match="tags 0 and 1 are both called"):
        Catalog(("milk", "MILK"))
    with pytest.raises(KeyError, match="'butter' is not in the catalogue of 1 tags"):
        Catalog(("milk",), aliases={"ghee": "butter"})
