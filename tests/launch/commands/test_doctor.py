"""What the doctor prints for what is missing."""

import io

from rich.console import Console

from recrl.launch.commands import doctor


def test_a_missing_extra_is_named_with_a_command_that_can_be_pasted(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    out = io.StringIO()
    Console(file=out, width=200).print(doctor._packages())
    for extra in ("vllm", "lora", "grammar", "demo"):
        assert f"pip install 'recrl[{extra}]'" in out.getvalue()


def test_what_an_engine_said_is_shown_as_it_is(monkeypatch):
    monkeypatch.setattr(doctor, "_try", lambda name: (False, "no key [red] in {a}"))
    out = io.StringIO()
    table, failed = doctor._engines(Console(file=out, width=200))
    Console(file=out, width=200).print(table)
    assert failed
    assert "no key [red] in {a}" in out.getvalue()
