"""Words of a configuration for the lists that may be deployed, see :mod:`recrl.rl.decoding.forms`."""

from importlib.util import find_spec
from typing import Literal

Decoding = Literal["distinct", "grammar", "free"]


def check_installed(decoding: Decoding) -> None:
    """Refuse a decoding whose package is missing.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if decoding == "grammar" and find_spec("xgrammar") is None:
        raise ModuleNotFoundError(
            "evaluation.decoding=grammar needs the package xgrammar: pip install 'recrl[grammar]', or use "
            "distinct"
        )
