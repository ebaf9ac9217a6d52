"""Two hosts on this machine: network namespaces, joined by a cable."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def missing() -> str | None:
    """Why there can be none here."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return "two hosts are two network namespaces: needs root and iproute2"
    name = f"recrl-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return tried.stderr.strip() or None


@contextmanager
def two() -> Iterator[dict[str, str]]:
    """Host name -> address; a program runs on one with ``ip netns exec NAME``."""
    tag = os.getpid() % 100_000
    names = {f"recrl-{tag}-a": "10.77.0.1", f"recrl-{tag}-b": "10.77.0.2"}
    ends = [f"ra{tag}", f"rb{tag}"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for end, (name, address) in zip(ends, names.items(), strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def on(host: str, *command: str) -> list[str]:
    """The command there."""
    return ["ip", "netns", "exec", host, *command]
