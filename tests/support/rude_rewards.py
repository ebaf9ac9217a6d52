"""A reward that does to its process what its first completion says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class TwoPartsError(Exception):
    """Cannot be made from the one argument that it keeps."""

    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def rude(completions):
    said = completions[0]
    if said == "raise":
        raise TwoPartsError("no", "views")
    if said == "unpicklable":
        return [lambda: 0.5] * len(completions)
    if said == "exit":
        sys.exit(3)
    if said == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return [os.getpid() / 1e7] * len(completions)


def starts_another(completions):
    """Writes its process id to the file that the completion names, and waits for it."""
    process = subprocess.Popen(["sleep", "60"])
    Path(completions[0]).write_text(str(process.pid))
    time.sleep(60)
