"""The model card of an exported policy, made of a run's files as its report is."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ...envs.markdown import code, table, text
from ...envs.task import Words, find
from ...rl.optimizer.constraints import parse_constraint
from .sections import _compared, _held, _interval, _signed, ranked_by

_NAMES = {"trained": "trained", "warm": "warm start"}


def card(run: Path, which: str) -> str:
    """A model card: objective, bounds, prices, metrics beside baselines, data, use and limits.

    Args:
        run: Folder of the run; without ``evaluation.json`` the card says that nothing was measured.
        which: ``trained`` or ``warm``.
    """
    config = yaml.safe_load((run / "config.yaml").read_text())
    evaluated = (run / "evaluation.json").is_file()
    result = json.loads((run / "evaluation.json").read_text()) if evaluated else None
    policy, model = _NAMES[which], config["policy"]["model"]
    words = None
    if result is not None:
        kind = find(config["task"].get("use", "tags"))
        words = kind.words(config["task"], config["data"], result)
    lines = [
        "---",
        yaml.safe_dump(_front(model)).rstrip(),
        "---",
        "",
        f"# {text(config['name'])}",
        "",
        *_objective(config, policy),
        *_measured(config, policy, result, words),
        *_use(config),
    ]
    return "\n".join(lines) + "\n"


def _front(model: str) -> dict[str, Any]:
    """What the hub reads: a base model only where the hub has it."""
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["recrl", "grpo", "recommendation"],
    }
    if model == "smollm2":
        front["base_model"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    elif model != "tiny" and not Path(model).exists():
        front["base_model"] = model
    return front


def _objective(config: Mapping[str, Any], policy: str) -> list[str]:
    optimizer = config["optimizer"]
    bounds = ", ".join(f"**{text(bound)}**" for bound in optimizer["constraints"]) or "nothing"
    steps = f"{config['warm_start']['steps']} supervised steps"
    if policy == "trained":
        steps += (
            f", then at most {config['train']['steps']} steps of constrained GRPO (rule "
            f"{code(optimizer['rule'])}, {config['train']['prompts_per_step']} prompts a step, "
            f"{config['train']['group_size']} answers each)"
        )
    model = config["policy"]["model"]
    if model == "tiny":
        origin = "a small decoder with random weights"
    else:  # a place on the disk is nobody else's business
        origin = code(Path(model).name if Path(model).exists() else model)
    return [
        "## Objective and constraints",
        "",
        f"The {policy} policy of a run of recrl {version('recrl')}: maximise "
        f"**{text(optimizer['objective'])}** subject to {bounds}. Rewards: "
        f"{', '.join(text(one['name']) for one in config['rewards'])}.",
        "",
        f"From {origin}: {steps}; seed {config['seed']}.",
        "",
    ]


def _measured(
    config: Mapping[str, Any], policy: str, result: Mapping[str, Any] | None, words: Words | None
) -> list[str]:
    if result is None or words is None:
        return ["## Evaluation", "", "The run was not evaluated: nothing is known of this policy.", ""]
    lines = _held(result)
    for name, population in result["populations"].items():
        deployed = population["deployed"]
        headline = words.headline or config["optimizer"]["objective"]
        columns = [headline, *_bounded(config, deployed, headline)]
        ranked = ranked_by(deployed["metrics"], headline)
        lines += [
            f"## Evaluation: {words.population}".format(
                name=name, episodes=population["episodes"], users=population["users"]
            ),
            "",
            f"Deployed: {words.deployed}. Means with 95 % intervals, bootstrapped over {words.unit}.",
            "",
            table(
                ["policy", *map(text, columns)],
                [
                    [
                        f"**{one}**" if one == policy else one,
                        *(
                            _interval(deployed["metrics"][one][column])
                            if column in deployed["metrics"][one]
                            else "-"
                            for column in columns
                        ),
                    ]
                    for one in ranked
                ],
            ),
            "",
            *([*_compared(deployed, policy, headline, words.note), ""] if policy == "trained" else []),
            *(
                f"{text(one['name'])}: {'met' if one[policy]['met'] else '**missed**'}, slack "
                f"{_signed(one[policy]['slack'])}.\n"
                for one in deployed["constraints"]
                if policy in one
            ),
        ]
    return [*lines, "## Data", "", words.data, ""]


def _bounded(config: Mapping[str, Any], deployed: Mapping[str, Any], headline: str) -> list[str]:
    """Constrained rewards that deployed answers were measured by, each once."""
    known = {metric for found in deployed["metrics"].values() for metric in found}
    written = config["optimizer"]["constraints"]
    names = dict.fromkeys(c.reward for one in written for c in parse_constraint(one))
    return [name for name in names if name in known and name != headline]


def _use(config: Mapping[str, Any]) -> list[str]:
    catalogue = find(config["task"].get("use", "tags")).answers
    return [
        "## Intended use",
        "",
        f"Recommendations to users of the kind that it was trained on, from prompts in the form of that run. "
        f"{catalogue}The weights are an ordinary folder of transformers:",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("FOLDER-OR-NAME")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER-OR-NAME")',
        "```",
        "",
        "## Limits",
        "",
        "- The weights alone hold no bound and know no catalogue: what is shown above was decoded under "
        "limits and prices. `recrl recommend` does that, with prices for the users of the day.",
        "- Prices are right for the users that they were fitted on; other users need others.",
        "- What was measured is how answers agree with logs, not what they would change; one run, one seed.",
        "- Weights may repeat what logs of people say. The rights of the data and of the base model hold on.",
        "",
    ]
