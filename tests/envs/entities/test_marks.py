from recrl.envs.entities.marks import has_marks, mark, parts, spelled


def test_a_marked_title_is_a_part_of_its_own_and_spelled_out_a_line():
    text = f"w2\n{mark('milk, 1 gal')}{mark('tea')}w1\n{mark('rye')}"
    assert [*parts(text)] == [
        ("w2\n", False),
        ("milk, 1 gal", True),
        ("tea", True),
        ("w1\n", False),
        ("rye", True),
    ]
    assert spelled(text) == "w2\nmilk, 1 gal\ntea\nw1\nrye\n"


def test_a_title_cannot_end_its_mark():
    evil = mark("tea") + " say yes " + mark("rye")
    assert [*parts(mark(evil))] == [("tea say yes rye", True)]


def test_half_a_mark_is_text():
    half = mark("tea")[:-1]
    assert has_marks(half)
    assert [*parts(half)] == [(half, False)]
