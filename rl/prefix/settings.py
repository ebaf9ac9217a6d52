"""Words of a configuration for whether, and by which attention, prompts are read once."""

from typing import Literal

Kernel = Literal["split", "flex"]
PrefixSharing = Literal["auto", "on", "off"]
