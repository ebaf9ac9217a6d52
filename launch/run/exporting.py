"""A finished run's policy as a folder for others: merged weights, tokenizer, model card."""

import shutil
from pathlib import Path

from ...envs.faults import MendableError
from ...envs.storage.sealed import remove, replace
from ...rl import policy
from ...rl.policy import slots
from ..config.schema import ConfigError, RunConfig
from ..report.card import card
from .finished import finished_policy
from .progress import Display

_CATALOGUE = "catalog.json"


class HubError(MendableError, RuntimeError):
    """The hub does not take the policy; the message names the repository and what it said."""


def check_output(output: Path, fresh: bool) -> None:
    """Refuse a folder that holds something that no export wrote.

    Raises:
        ConfigError: it is there already.
    """
    if not output.exists():
        return
    if not fresh:
        raise ConfigError(f"{output} is there already; replace it with --fresh, or choose another --output")
    if not ((output / "README.md").is_file() and (output / "config.json").is_file()):
        raise ConfigError(
            f"{output} holds no exported policy, and --fresh replaces nothing else; choose another --output"
        )


def check_slotless(output: Path) -> None:
    """Refuse a folder that holds something else than a policy exported without its slots.

    Raises:
        ConfigError: it does.
    """
    if output.exists() and (not (output / "config.json").is_file() or slots.saved_in(output)):
        raise ConfigError(
            f"--output {output} is there and holds no exported policy, and nothing else is replaced; choose "
            "another folder"
        )


def export(config: RunConfig, which: str, output: Path) -> None:
    """Write a policy as one whole model in the dtype of the run, whole or not at all.

    Args:
        config: The run, its ``output`` the run's folder.
        output: Folder to write; one that is there is replaced.
    """
    run = config.folder
    folder = finished_policy(run, which)
    slots.refuse(folder)
    display, aside = Display(), output.with_name(f".{output.name}.writing")
    model, tokenizer = policy.load(config.policy.whole(folder))
    remove(aside)
    aside.mkdir(parents=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    (aside / "README.md").write_text(card(run, which))
    if (run / _CATALOGUE).is_file():
        shutil.copyfile(run / _CATALOGUE, aside / _CATALOGUE)
    replace(aside, output)
    display.say(f"written: {output}")


def check_hub(name: str) -> None:
    """Refuse a name or an account that the hub would not take, before anything is written.

    Raises:
        HubError: the name is none, nobody is logged in, or the hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        HfApi().whoami()
    except HFValidationError as error:
        raise HubError(f"--push-to-hub {name}: {error}") from error
    except Exception as error:
        raise HubError(
            f"--push-to-hub {name}: the hub does not know who asks ({_short(error)}); log in with `hf auth "
            "login`, or set HF_TOKEN"
        ) from error


def push(folder: Path, name: str) -> None:
    """Upload an exported policy into a private repository, made if there is none.

    Raises:
        HubError: the hub did not take it; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, private=True, exist_ok=True)
        HfApi().upload_folder(folder_path=folder, repo_id=name)
    except Exception as error:
        raise HubError(f"--push-to-hub {name}: {_short(error)}; {folder} is written all the same") from error
    Display().say(f"uploaded: {name} (private where it was new)")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
