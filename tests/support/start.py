"""Runs a script as ``recrl train`` starts: with TRL, and without the vLLM that TRL would import.

Usage: start.py SCRIPT ARGUMENTS...
"""

import runpy
import sys

from recrl.rl.trainer.without_vllm import import_trl

if __name__ == "__main__":
    import_trl()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
