"""``recrl judge``: what judges find, how good they are, and what is made of it."""

import typer

from . import benching, grading

judge_app = typer.Typer(no_args_is_help=True, help="Judge answers, test judges, and make a reward of grades.")
judge_app.command()(benching.bench)
judge_app.command()(benching.label)
judge_app.command()(benching.losses)
judge_app.command()(grading.grade)
judge_app.command()(grading.distill)
judge_app.command()(grading.flywheel)
