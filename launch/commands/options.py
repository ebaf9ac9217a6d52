"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(help="YAML file, or the name of a shipped one (demo).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, e.g. train.steps=50 data=logs.parquet output=runs/mine")
]

Resume = Annotated[
    str | None,
    typer.Option(help="auto: from the newest whole checkpoint, if there is one; or a checkpoint's folder."),
]
Fresh = Annotated[bool, typer.Option(help="Replace an existing run folder.")]
