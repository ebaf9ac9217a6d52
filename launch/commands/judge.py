"""``recrl judge``: what judges find, and what is made of it."""

import typer

from . import grading

judge_app = typer.Typer(no_args_is_help=True, help="Judge answers, and make a reward of the grades.")
judge_app.command()(grading.grade)
judge_app.command()(grading.distill)
judge_app.command()(grading.flywheel)
