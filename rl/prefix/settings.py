"""How a configuration says whether, and by which attention, prompts are read once."""

from typing import Literal

Kernel = Literal["split", "flex"]
PrefixSharing = Literal["auto", "on", "off"]
