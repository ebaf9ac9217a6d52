"""Command line of ``recrl bench hybrid``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .scale import Scale, measure

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="Folder of the result, and of the store.")] = Path(
        "runs/bench-hybrid"
    ),
    entities: Annotated[int, typer.Option(min=5000, help="Entities of the store.")] = 10_000_000,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the model, 576 wide.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Batches; medians are told.")] = 3,
) -> None:
    """Lookup and projection of a batch that touches 5,000 of millions of entities, beside its step."""
    found = measure(Scale(entities=entities, layers=layers), output / "store", repeats)
    (output / "scale.json").write_text(json.dumps(found, indent=1))
    seconds = found["seconds"]
    typer.echo(
        f"{found['touched']:,} of {found['entities']:,} entities ({found['store gigabytes']:.1f} GiB), a "
        f"model of {found['weights']:,} weights: lookup {1e3 * seconds['lookup']:.0f} ms, projection "
        f"{1e3 * seconds['projection']:.0f} ms, step {seconds['step']:.1f} s: {found['share']:.1%} of it; "
        f"{found['resident megabytes']:.0f} MB resident"
    )


if __name__ == "__main__":
    app()
