"""A model out of a section of the configuration: on a server, or in this process."""

from ...envs.chat.configured import ConfiguredModel
from ...envs.chat.endpoint import Endpoint
from ...envs.chat.ledger import Ledger
from ...envs.chat.settings import ChatConfig
from ...envs.faults import MendableError


class ModelError(MendableError, ValueError):
    """A model cannot be had; the message names the setting and the fix."""


def make_chat(config: ChatConfig, section: str = "judge", *, ledger: Ledger | None = None) -> ConfiguredModel:
    """The model of a section; one in this process is loaded by then.

    Args:
        section: Name of the section, for errors.
        ledger: Ledger that counts; by default one of its own.

    Raises:
        ModelError: the key's variable is not set, a package is missing, or the model cannot be loaded.
    """
    # Errors of the backends that name a setting of theirs; torch is not imported for a server.
    try:
        if config.backend == "endpoint":
            return Endpoint(config, ledger=ledger)
        if config.backend == "transformers":
            from .in_transformers import TransformersModel

            return TransformersModel(config, ledger=ledger)
        from .in_vllm import VllmModel

        return VllmModel(config, ledger=ledger)
    except (ModuleNotFoundError, ValueError) as error:
        raise ModelError(f"{section}: {error}") from error
