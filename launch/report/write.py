"""The report of a run: ``report.md`` and ``plots/*.png``, rendered from the files of its folder alone."""

from pathlib import Path

import yaml

from ...envs.markdown import code, text
from ...envs.storage import sealed
from ...envs.task import find
from . import files
from .sections import _held, _population
from .summary import FACTS, in_short, settings
from .training import _conflict, _constraint_names, _failed, _infeasible, _settled, _time, _validated


def write(folder: Path) -> Path:
    """Render the report of a finished run.

    Args:
        folder: Run folder with ``config.yaml``, ``metrics.jsonl``, ``evaluation.json``, ``examples.json``,
            and ``facts.json``.

    Returns:
        Path of ``report.md``.

    Raises:
        ReportError: one of the files is damaged.
    """
    import matplotlib  # half a second, which every start would wait for

    matplotlib.use("Agg")
    from .plots import _plot_conflict, _plot_time, _plot_trade_off, _plot_training, _plot_validation

    config = yaml.safe_load((folder / "config.yaml").read_text())
    result, shown = (files.content(folder / f"{name}.json") for name in ("evaluation", "examples"))
    log = files.lines(folder / "metrics.jsonl")
    validations = files.lines(path) if (path := folder / "validation.jsonl").exists() else []
    # Runs of earlier versions left none.
    facts = files.content(folder / FACTS) if (folder / FACTS).exists() else {}
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    task = find(config["task"].get("use", "tags"))
    words = task.words(config["task"], config["data"], result)
    constraints = _constraint_names(log)
    with matplotlib.rc_context({"text.parse_math": False}):  # a name may hold dollars
        _plot_training(log, constraints, config["optimizer"]["objective"], plots / "training.png")
        _plot_conflict(log, plots / "conflict.png")
        _plot_time(log, plots / "time.png")
        if validations:
            _plot_validation(validations, plots / "validation.png")
        for name, population in result["populations"].items():
            if words.trade_off is not None:
                path = plots / f"deployed-{name.replace(' ', '-')}.png"
                _plot_trade_off(population["deployed"], words.trade_off, path)
    lines = [
        f"# {text(config['name'])}",
        "",
        f"Maximise **{text(config['optimizer']['objective'])}** subject to "
        + (", ".join(f"**{text(bound)}**" for bound in config["optimizer"]["constraints"]) or "nothing")
        + f". Rule {code(config['optimizer']['rule'])}, policy {code(config['policy']['model'])}, "
        f"seed {config['seed']}.",
        "",
        words.data,
        f"Intervals are 95 %, bootstrapped over {words.unit}; differences are paired.",
        "",
    ]
    lines += in_short(config, result, log, facts)
    for name, population in result["populations"].items():
        lines += _population(name, population, words, config["optimizer"]["objective"])
    lines += _held(result)
    lines += [
        "## Training",
        "",
        f"{config['warm_start']['steps']} supervised steps, then {len(log)} steps of constrained GRPO with "
        f"{config['train']['prompts_per_step']} prompts and {config['train']['group_size']} answers each.",
        "",
        *_infeasible(log),
        *_failed(log),
        "![Objective, slacks and prices over steps](plots/training.png)",
        "",
        "A slack at or above zero meets the constraint. "
        "A price is what one unit of the bound costs in units of the objective.",
        "",
        *_settled(log, constraints),
        *_validated(validations),
        *_conflict(log),
        *_time(log),
        *settings(config),
        f"## {words.gallery}",
        "",
        words.examples,
        "",
        *(line for example in shown for line in (*task.shown(example), "")),
    ]
    path = folder / "report.md"
    sealed.write(path, "\n".join(lines) + "\n")
    return path
