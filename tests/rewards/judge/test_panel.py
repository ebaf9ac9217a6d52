"""The judge on texts whose faults are known."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recrl.envs.catalog import Catalog
from recrl.envs.chat.models import Reply
from recrl.envs.chat.scripted import Scripted
from recrl.rewards.judge.checkers import CHECKERS
from recrl.rewards.judge.findings import Finding, Grade, Judgement, grade, replayed, table
from recrl.rewards.judge.panel import Judge
from recrl.rewards.judge.rubric import RubricError, load

CATALOG = Catalog(("milk", "bread", "cheese", "soft drinks", "candy", "beer"))
MILK, BREAD, CHEESE, DRINKS, CANDY, BEER = range(6)
ROW = {
    "prompt": [{"role": "user", "content": "<user>\nmilk\n</user>"}],
    "item": [CHEESE],
    "history": [MILK, BREAD, DRINKS],
    "facts": {
        "weekly": [MILK],
        "often": [MILK, BREAD],
        "last week": [DRINKS],
        "bought": [MILK, BREAD, DRINKS],
        "companion": [BREAD],
        "season": ["autumn"],
        "holiday": ["Halloween"],
        "campaign": [],
    },
    "protected": ["45-54"],
    "calendar": "10 October 2017, autumn; ahead: Halloween",
    "campaign": "",
}
RICH = "You buy milk most weeks. Would cheese be of use before Halloween?"
PLAIN = "You have bought milk before. That is why we suggest cheese."


def judged(text, row=ROW, **options):
    (found,) = Judge("explanations", catalog=CATALOG, **options)([row], [text])
    return found


def verdicts(text):
    return {one.dimension: one.verdict for one in judged(text).findings}


def test_a_rich_true_text_is_superior_and_a_plain_one_average():
    assert judged(RICH).grade is Grade.SUPERIOR
    assert judged("A piece of cheese goes with bread.").grade is Grade.AVERAGE
    assert "defect" not in verdicts(PLAIN).values()


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("You buy beer most weeks. Would cheese be of use before Halloween?", "factuality"),  # fact
        ("You buy bread most weeks. Would cheese be of use before Halloween?", "factuality"),  # frequency
        ("You bought milk last week. Would cheese be of use before Halloween?", "factuality"),  # recency
        ("You often buy milk. Cheese goes well with candy.", "factuality"),
        ("You buy milk most weeks. Would cheese be of use in spring?", "timeliness"),
        ("You buy milk most weeks. Would cheese be of use with the coupon?", "timeliness"),
        ("You buy milk most weeks. At 45-54 cheese is for you.", "safety"),
        ("You buy milk most weeks. Women like you love cheese.", "safety"),
        ("We suggest cheese.", "informativeness"),
        ("You buy milk most weeks. You never bought milk. Try cheese.", "clarity"),
        ("You buy milk most weeks. You buy milk most weeks. Try cheese.", "clarity"),
        ("You buy milk most weeks. Would cheese be of", "clarity"),
        ("You buy milk most weeks. Would <b>cheese</b> be of use?", "clarity"),
        ("You buy milk most weeks. Cheese is the best ever, hurry!", "attractiveness"),
        ("You buy milk most weeks. CHEESE is AMAZING news.", "attractiveness"),
        ("You buy milk most weeks. Would candy be of use?", "relevance"),
        ("", "clarity"),
    ],
)
def test_a_defect_is_found_where_it_lies(text, dimension):
    found = judged(text)
    assert dimension in found.defects
    assert found.grade is Grade.BAD
    if text.startswith("You buy milk most weeks. ") and dimension != "relevance":
        assert found.defects == [dimension]


def test_evidence_names_what_the_verdict_rests_on():
    evidence = {one.dimension: one.evidence for one in judged("You buy beer most weeks. Cheese?").findings}
    assert evidence["factuality"] == "beer: weekly"
    assert judged(RICH).findings[1].evidence == "milk: weekly"


def test_lists_are_judged_by_their_own_dimensions():
    judge, row = Judge("tags", catalog=CATALOG), {"history": [MILK, BREAD, DRINKS, BEER]}
    texts = ["milk\nbread\nsoft drinks\nbeer\n", "milk\nmilk\n", "wodka\n", "candy\n", ""]
    found = judge([row] * len(texts), texts)
    assert found[0].grade is Grade.SUPERIOR
    assert [one.grade for one in found[1:]] == [Grade.BAD] * 4
    assert [one.defects for one in found[1:4]] == [
        ["consistency"],
        ["relevance", "specificity", "validity"],
        ["relevance", "specificity"],
    ]


@pytest.mark.parametrize("kind", CHECKERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_checker_never_raises_on_any_text(kind, data):
    pieces = st.one_of(
        st.text(),
        st.sampled_from([*CATALOG.tags, "You buy", "never", "!!", "<b>", "\n", ". ", "autumn", "coupon"]),
    )
    text = "".join(data.draw(st.lists(pieces, max_size=12)))
    for check in CHECKERS[kind].values():
        verdict, evidence = check(ROW, text, CATALOG)
        assert verdict in ("defect", "neutral", "positive")
        assert isinstance(evidence, str)


def test_the_reviewer_is_strict_about_defects_and_fair_about_what_is_missing():
    def of(*verdicts):
        return grade([Finding(str(i), verdict) for i, verdict in enumerate(verdicts)], superior=0.7)

    assert of("positive", "positive", "positive", "defect") is Grade.BAD
    assert of("positive", "positive", "neutral") is Grade.AVERAGE
    assert of("positive", "positive", "positive", "neutral") is Grade.SUPERIOR
    assert of("positive", None) is None
    assert of("defect", None) is Grade.BAD
    assert of() is None


def answers(text):
    """A model that finds what the text says of itself."""

    def script(messages):
        return json.dumps({"evidence": "as it says", "verdict": text})

    return Scripted(script)


def test_a_dimension_is_asked_of_a_model_which_sees_what_it_reads_and_no_more():
    model = answers("positive")
    found = judged(RICH, model=model, by={"factuality": "model", "attractiveness": "model"})
    assert [one.evidence for one in found.findings if one.dimension in ("factuality", "attractiveness")] == [
        "as it says"
    ] * 2
    factual, charming = ("\n".join(m["content"] for m in asked) for asked in model.asked)
    assert "weekly: milk" in factual
    assert "weekly: milk" not in charming
    assert "45-54" not in factual + charming
    assert model.ledger["judge/factuality"].questions == 1


def test_what_a_model_does_not_say_is_missing_and_never_a_low_grade():
    for reason in ("late", "refused", "cut off", "shape"):
        model = Scripted(lambda _, why=reason: Reply.missing(why, "nothing"))
        found = judged(RICH, model=model, by={"attractiveness": "model"})
        assert found.grade is None
        assert [one.missing for one in found.findings if one.verdict is None] == [reason]
    garbage = Scripted(lambda _: "certainly! it is fine")
    assert judged(RICH, model=garbage, by={"attractiveness": "model"}).grade is None


def test_votes_are_counted_and_a_minority_decides_nothing():
    said = ["positive", "defect", "positive", "neutral"]
    script = [f'{{"evidence": "", "verdict": "{one}"}}' for one in said]
    found = judged(RICH, model=Scripted(script), by={"clarity": "model"}, votes=4)
    assert found.findings[2].verdict == "positive"
    lost = [Reply.missing("late", ""), *script[:1]]
    assert judged(RICH, model=Scripted(lost), by={"clarity": "model"}, votes=2).findings[2].verdict is None


def test_the_order_of_a_question_is_drawn_and_the_same_for_the_same_text():
    model = answers("neutral")
    for _ in range(2):
        judged(RICH, model=model, by={"relevance": "model"})
    judged(PLAIN, model=model, by={"relevance": "model"}, votes=6)
    orders = [messages[0]["content"] for messages in model.asked]
    assert orders[0] == orders[1]
    assert len(set(orders[2:])) > 1


def test_judgements_are_kept_and_replayed(tmp_path):
    found = Judge("explanations", catalog=CATALOG)([ROW] * 2, [RICH, "Beer!"])
    table(found).write_parquet(tmp_path / "judged.parquet")
    kept = replayed(pl.read_parquet(tmp_path / "judged.parquet"), load("explanations").superior)
    assert kept == found
    plain = Judge("explanations", catalog=CATALOG)([ROW], [PLAIN])
    grades = [replayed(table(plain), superior)[0].grade for superior in (0.5, 1.0)]
    assert grades == [Grade.SUPERIOR, Grade.AVERAGE]
    assert isinstance(kept[0], Judgement)


OWN = """
version: 3
superior: 0.5
dimensions:
  charm: {by: "CHECKERS:charm"}
  relevance: {by: grounded}
"""


def test_a_rubric_and_a_checker_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text(
        "def charm(row, text, catalog):\n"
        "    if 'boom' in text: raise ZeroDivisionError('boom')\n"
        "    return ('positive', 'please') if 'please' in text else ('neutral', '')\n"
    )
    (tmp_path / "own.yaml").write_text(OWN.replace("CHECKERS", str(tmp_path / "own.py")))
    judge = Judge(str(tmp_path / "own.yaml"), catalog=CATALOG)
    found = judge([ROW] * 2, ["cheese, please, with bread", "boom"])
    assert [one.verdict for one in found[0].findings] == ["positive", "positive"]
    assert found[0].grade is Grade.SUPERIOR
    assert found[1].findings[0].missing == "ZeroDivisionError: boom"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1", "dimensions: Field required"),
        ("version: 1\ndimensions: {}", "dimensions is empty"),
        ("version: 1\ndimensions: {charm: {}}", "dimensions.charm.question is missing"),
        ("version: 1\ndimensions: {charm: {by: grounded}}", "no shipped checker"),
        ("version: 1\ndimensions: {charm: {by: someone}}", "by='someone' is unknown"),
        ("version: 1\ndimensions: {charm: {question: nice}}", "is judged by a model, and none is given"),
        ("version: 0\ndimensions: {charm: {by: grounded}}", "version"),
        ("[", "no YAML"),
    ],
)
def test_a_rubric_that_cannot_be_used_is_one_line(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(RubricError, match=message) as refused:
        Judge(str(tmp_path / "own.yaml"), catalog=CATALOG)
    assert "\n" not in str(refused.value)


def test_a_dimension_that_a_rubric_lacks_cannot_be_handed_on():
    with pytest.raises(RubricError, match="'wit' is no dimension"):
        Judge("explanations", catalog=CATALOG, by={"wit": "model"})
    with pytest.raises(RubricError, match="no such file"):
        Judge("rubric-nowhere.yaml", catalog=CATALOG)
