"""Where things are, for tests and for the processes that they start."""

from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
STRATEGIES = ROOT / "configs" / "accelerate"
