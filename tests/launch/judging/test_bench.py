"""What the benchmark of judges refuses; tests/docs/test_judge.py runs it."""

from whole_runs import here


def test_a_task_without_facts_has_no_suite(cache, panel_task):
    said = here("judge", "bench", f"data.cache={cache}", "--config", "demo", code=2)
    assert "made of rows of the explanations task" in said


def test_judgements_that_are_not_there_are_refused_before_anything_is_read(tmp_path):
    said = here("judge", "bench", "--replay", str(tmp_path / "none.parquet"), code=2)
    assert "no such file" in said
