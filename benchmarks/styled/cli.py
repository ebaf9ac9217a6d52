"""Command line of ``recrl bench styled``, also ``python -m recrl.benchmarks.styled.cli``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recrl.envs.markdown import table
from recrl.envs.storage.sealed import write
from recrl.launch.config.schema import ConfigError
from recrl.launch.faults import fail

from .. import BenchmarkError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def styled(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs of task.use=explanations, one a seed.")],
    output: Annotated[Path, typer.Option(help="Folder of report and figures.")] = Path("runs/styled"),
    rows: Annotated[int, typer.Option(min=2, help="Unseen rows of each run.")] = 200,
    draws: Annotated[int, typer.Option(min=1, help="Texts among which a matching one is chosen.")] = 8,
    which: Annotated[str, typer.Option(help="Policy of the writer: policy, or warm.")] = "policy",
) -> None:
    """What a style guideline adds to the diversity of texts, at equal claims."""
    from .compare import compare, pooled

    try:
        found = []
        for run in runs:
            found.append(compare(run, rows, draws, which))
            typer.echo(f"{run}: done")
    except (BenchmarkError, ConfigError) as error:
        fail(str(error), 2)
    result = {"runs": len(runs), "rows": rows, "draws": draws, "writer": which, **pooled(found)}
    output.mkdir(parents=True, exist_ok=True)
    write(output / "styled.json", json.dumps(result, indent=1))
    write(output / "report.md", "\n".join(_report(result)))
    typer.echo(f"report: {output / 'report.md'}")


def _report(result: dict[str, Any]) -> list[str]:
    from .compare import GUIDED, MEASURES

    def rows(figures: dict[str, Any], sign: str) -> str:
        return table(
            ["writer", *MEASURES],
            [[name, *(_shown(told[one], sign) for one in MEASURES)] for name, told in figures.items()],
        )

    kind = "trained" if result["writer"] == "policy" else "warm started"
    return [
        "# Meta-prompting",
        "",
        f"The {kind} writer of {result['runs']} runs (seeds), {result['rows']} unseen rows each, once under "
        "a guideline drawn at random for each row and once without; eight templates. Intervals are 95 %, "
        "bootstrapped over households.",
        "",
        f"*Matched*: of {result['draws']} texts for a row (samples of the writer, draws of the template) the "
        "one whose number of claims is nearest to the guided text's, true ones first.",
        "",
        rows(result["means"], ""),
        "",
        f"`{GUIDED}` less each other:",
        "",
        rows(result["differences"], "+"),
        "",
    ]


def _shown(found: dict[str, float] | None, sign: str) -> str:
    if found is None:
        return "-"
    return f"{found['mean']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


if __name__ == "__main__":
    app()
