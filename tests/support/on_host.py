"""Run a script as ``recrl launch`` would start the training on one of several machines.

Usage: on_host.py STRATEGY NODES RANK ADDRESS PORT SCRIPT ARGUMENTS...
"""

import os
import sys

from recrl.launch.cluster import launcher
from recrl.launch.config.reading import load

if __name__ == "__main__":
    strategy, nodes, rank, address, port, *script = sys.argv[1:]
    cluster = launcher.Cluster(int(nodes), 1, int(rank), address, int(port))
    chosen = launcher.plan(load("demo"), strategy, cluster, ["demo"], [])
    command = list(chosen.training[: chosen.training.index("recrl.launch.train") - 1])
    os.execve(command[0], [*command, *script], {**os.environ, **chosen.environment})
