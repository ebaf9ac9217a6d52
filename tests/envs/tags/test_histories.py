import numpy as np
import polars as pl
import pytest

from recrl.envs.data import products
from recrl.envs.data.products import Products
from recrl.envs.data.settings import DataConfig, DataError
from recrl.envs.entities.marks import has_marks, spelled
from recrl.envs.tags.histories import Histories
from recrl.envs.tags.settings import PromptConfig, TagsConfig
from recrl.envs.tags.task import Tags

# One user: tea in weeks 2, 3 and 7, rye in 3, milk in 7; another one besides.
SMALL = Products(
    pl.DataFrame({"title": ["milk", "rye", "tea"]}),
    *(
        np.array(column, dtype=np.int32)
        for column in ([4, 4, 4, 4, 4, 5], [2, 3, 3, 7, 7, 2], [2, 1, 2, 0, 2, 0])
    ),
)
EPISODE = {"user": 4, "origin": 9}


def told(history, **wording):
    about, *lines = Histories(SMALL, PromptConfig(history=history, **wording))(EPISODE)
    assert about == "bought, by weeks ago:"
    return "\n".join(lines)


def test_a_history_stands_under_its_weeks_a_product_a_line():
    assert told("text") == "w7\ntea\nw6\nrye\ntea\nw2\nmilk\ntea"
    assert told("text", products=3) == "w6\ntea\nw2\nmilk\ntea"
    assert Histories(SMALL, PromptConfig(history="text"))({"user": 4, "origin": 2}) == []


def test_a_hybrid_history_is_the_same_marked_with_nothing_between():
    hybrid = told("hybrid")
    assert has_marks(hybrid)
    assert spelled(hybrid) == told("text") + "\n"


def test_truncated_histories_keep_the_latest_or_the_most_frequent():
    assert told("truncated", kept=3) == told("text", products=3)
    assert told("frequent", kept=1) == "w2\ntea", "three weeks, the last of them two weeks ago"
    assert told("frequent", kept=2) == "w2\nmilk\ntea", "rye and milk have one each; milk is later"


def test_products_of_the_panel_are_its_purchases_of_tags(panel_task):
    found = products.load(DataConfig(), panel_task.panel.users)
    assert 17_000 < found.table.height < 17_500
    assert found.table["title"].is_sorted()
    assert found.table["title"].n_unique() == found.table.height
    tags = {tag: i for i, tag in enumerate(panel_task.catalog.tags)}
    of_product = np.array([tags.get(name, -1) for name in found.table["category"]])
    panel = panel_task.panel
    for user in (0, 7, 1200):
        own = found.user == user
        pairs = zip(found.week[own].tolist(), of_product[found.product[own]].tolist(), strict=True)
        mine = panel.user == user
        theirs = zip(panel.week[mine].tolist(), panel.tag[mine].tolist(), strict=True)
        assert {pair for pair in pairs if pair[1] >= 0} == {*theirs}
    weeks, _ = found.before(7, 30)
    assert weeks.max() < 30
    assert (np.diff(weeks) >= 0).all()


def test_the_task_tells_products_by_one_key(cache, panel_task):
    tasks = {
        history: Tags(TagsConfig(prompt=PromptConfig(history=history)), DataConfig(cache=cache))
        for history in ("tags", "text", "hybrid")
    }
    rows = {history: task.rows("train", 3) for history, task in tasks.items()}
    for one, other in zip(rows["text"], rows["hybrid"], strict=True):
        text, hybrid = one["prompt"][-1]["content"], other["prompt"][-1]["content"]
        assert spelled(hybrid).replace("\n\n</user>", "\n</user>") == text
        assert {name: one[name] for name in one if name != "prompt"} == {
            name: other[name] for name in other if name != "prompt"
        }
    assert tasks["tags"].entities is None
    assert tasks["hybrid"].entities.columns == ["title", "category", "type", "brand", "size"]


def test_a_source_without_products_is_refused():
    with pytest.raises(DataError, match=r"logs\.parquet has tags, not products; set task\.prompt\.history"):
        products.load(DataConfig(source="logs.parquet"), ())
