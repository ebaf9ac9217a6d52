"""``recrl launch``: the processes of a run, on one machine or on this one of several.

``plan``   what would be started, checked before anything starts
``start``  starts it: rollout servers first, then the training
``several``  another command in several processes of this machine
"""

import ctypes
import ipaddress
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from urllib.parse import urlsplit

import psutil
import yaml

from ...rl.rollouts.access import server_key
from ...rl.trainer.settings import check_split
from ..children import child
from ..config.schema import ConfigError, RunConfig
from ..run.folder import RunFolder
from ..run.progress import Display
from ..signals import EXIT_CODES, EXIT_FOLDER, codes_said, stopping
from .health import healthy

STRATEGIES = ("cpu", "ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Cluster:
    """Machines and processes of a run.

    Attributes:
        nodes: Machines that train.
        processes: Processes of each machine; one for each of its GPUs.
        rank: Number of this machine, from 0.
        address: Address of the first machine; needed for several.
        port: Port that the first machine listens on.
        interface: Network interface of this machine; by default the one that leads to ``address``.
    """

    nodes: int = 1
    processes: int = 1
    rank: int = 0
    address: str | None = None
    port: int = 29500
    interface: str | None = None


@dataclass(frozen=True)
class Plan:
    """Commands that are started on this machine.

    Attributes:
        training: Command of the training.
        servers: Commands of rollout servers by their addresses; empty on every machine but the first.
        environment: Variables that both need besides those that are set here.
        processes: Processes of the training on this machine.
    """

    training: tuple[str, ...]
    servers: dict[str, tuple[str, ...]]
    environment: dict[str, str]
    processes: int

    def __str__(self) -> str:
        prefix = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        commands = [*self.servers.values(), self.training]
        return "\n".join(" ".join([*prefix, shlex.join(command)]) for command in commands)


def plan(
    config: RunConfig,
    strategy: str,
    cluster: Cluster,
    arguments: Sequence[str],
    overrides: Sequence[str],
    *,
    grace: int = 120,
    patience: float = 0.0,
    here: bool = True,
) -> Plan:
    """Plan of what to start here.

    Args:
        config: The run, overrides included.
        strategy: One of :data:`STRATEGIES`, or an accelerate file.
        cluster: Machines and processes of the run.
        arguments: Arguments of ``recrl train``.
        overrides: ``key=value`` among them, which a server needs as well.
        grace: Seconds that processes have, once asked to stop, for the step and its checkpoint.
        patience: Seconds until the first machine's name must be known here.
        here: Whether this machine is one of the cluster's. If not, its GPUs and its resolver are not asked,
            and the interface to a machine that is given by name stays open.

    Raises:
        ConfigError: an unknown strategy, machines that do not fit together, or answers that do not split into
            whole groups over the processes.
    """
    file = check_shape(config, strategy, cluster.nodes, cluster.processes)
    _check_machine(cluster, strategy, file, here)
    total = cluster.nodes * cluster.processes
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += [
        "--config_file",
        str(file),
        "--num_processes",
        str(total),
        "--num_machines",
        str(cluster.nodes),
    ]
    environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(grace)}
    if cluster.nodes > 1:
        assert cluster.address is not None, "checked"
        command += ["--machine_rank", str(cluster.rank), "--main_process_ip", cluster.address]
        # Left to itself, gloo may choose loopback, and wait there for the others until it times out.
        interface = cluster.interface
        if interface is None and (here or _is_number(cluster.address)):
            interface = interface_to(cluster.address, cluster.port, patience)
        interface = interface or f"interface-to-{cluster.address}"
        environment |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    if total > 1:
        command += ["--main_process_port", str(cluster.port)]
    command += ["-m", "recrl.launch.train", *arguments]
    servers = _servers(config, cluster, arguments[0], overrides)
    return Plan(tuple(command), servers, environment, cluster.processes)


def start(chosen: Plan, folder: Path, display: Display, *, fresh: bool) -> int:
    """Start a plan and wait for the end of the training; return its exit code.

    Ctrl-C and SIGTERM are handed on, so that the training leaves a checkpoint; its exit code is then that of
    ``recrl train``, where accelerate would only say that it failed. Servers end with the training.

    Args:
        folder: The run folder.
        fresh: Whether the training replaces an earlier run.

    Raises:
        ConfigError: the folder is somebody else's, or the earlier run may not be replaced, or is in use.
        RolloutError: the servers' key is none, or others can read it.
    """
    if chosen.servers:
        RunFolder(folder).refuse_strangers()
        server_key(folder)
    if fresh and chosen.servers:
        _set_aside(RunFolder(folder))
    with ExitStack() as stack:
        codes = Path(stack.enter_context(TemporaryDirectory(prefix="recrl-exit-")))
        environment = {**os.environ, **chosen.environment}
        for address, command in chosen.servers.items():
            if healthy(address):
                display.say(f"{address} answers already")
                continue
            display.say(f"starting a rollout server at {address}")
            stack.enter_context(child(command, environment, 30))
        training = stack.enter_context(
            child(
                chosen.training,
                {**environment, EXIT_FOLDER: str(codes)},
                int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]),
            )
        )
        received: list[int] = []

        def hand_on(number: int, _: FrameType | None) -> None:
            received.append(number)
            training.send_signal(number)

        with stopping(hand_on):
            code = training.wait()
        return exit_code(code, codes_said(codes), received, chosen.processes)


def several(command: Sequence[str], processes: int, folder: Path, display: Display) -> int:
    """Run ``recrl`` with these arguments in several processes of this machine; return its exit code.

    Args:
        folder: The run folder.

    Raises:
        ConfigError: more processes than GPUs, where there are some.
    """
    here = gpus()
    if here and processes > here:
        raise ConfigError(f"--gpus {processes}: this machine has {here}; two processes cannot share one")
    started = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(strategy_file("ddp"))]
    # Port 0: any that is free.
    started += ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    plan = Plan(
        (*started, "-m", "recrl.launch.cli", *command),
        {},
        {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "30"},
        processes,
    )
    return start(plan, folder, display, fresh=False)


def exit_code(code: int, said: Sequence[int], received: Sequence[int], processes: int) -> int:
    """The exit code of a training: accelerate's own is 1 for whatever its processes ended with.

    Args:
        code: Code of accelerate.
        said: Codes that its processes left; one that was killed, or torn by another, left nothing.
        received: Signals that were handed on.
        processes: Number of processes.
    """
    if not code:
        return 0
    if faults := [one for one in said if one not in EXIT_CODES.values()]:
        return max(faults)
    if received:
        return EXIT_CODES[signal.Signals(received[0])]
    # A scheduler may have sent the signal to the processes themselves; where one is lost, accelerate does.
    return said[0] if len(said) == processes else abs(code)


def _set_aside(run: RunFolder) -> None:
    """Set a run aside now, or a server would take its policy; a training that cannot begin gives it back."""
    with run.locked():
        run.refuse(None, True)
        run.set_aside()


def strategy_file(strategy: str) -> Path:
    """The accelerate file of a strategy.

    Raises:
        ConfigError: there is no such file.
    """
    given = Path(strategy)
    if given.suffix in (".yaml", ".yml"):
        if not given.is_file():
            raise ConfigError(f"--strategy {strategy}: no such file")
        return given
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"--strategy {strategy!r} is unknown; use {', '.join(STRATEGIES)}, or a file of accelerate"
        )
    return Path(str(resources.files("recrl.configs"))) / "accelerate" / f"{strategy}.yaml"


def check_shape(config: RunConfig, strategy: str, nodes: int, processes: int) -> Path:
    """The strategy's accelerate file, if a run can be spread so.

    Args:
        nodes: Number of machines.
        processes: Number of processes of each.

    Raises:
        ConfigError: an unknown strategy, one that starts other processes than these, or answers that do not
            split into whole groups over them.
    """
    file, total = strategy_file(strategy), nodes * processes
    kind = _kind(file)
    if nodes < 1 or processes < 1:
        raise ConfigError(
            f"--nodes {nodes} --gpus {processes}: at least one node, with one process, has to be"
        )
    if total > 1 and kind in ("NO", "MULTI_CPU"):
        raise ConfigError(
            f"--strategy {strategy} starts one process whatever is asked for, and {total} are wanted; use "
            "ddp or zero3, with or without GPUs"
        )
    if total == 1 and kind == "MULTI_GPU":
        raise ConfigError(
            f"--strategy {strategy} needs two processes or more; for one use --strategy cpu without a GPU, "
            "zero2 with one, or plain recrl train"
        )
    try:
        check_split(config.train.prompts_per_step, config.train.group_size, total, config.train.micro_batches)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return file


def _kind(file: Path) -> str:
    return str(yaml.safe_load(file.read_text()).get("distributed_type", "NO"))


def _check_machine(cluster: Cluster, strategy: str, file: Path, present: bool) -> None:
    """Check that the cluster is one, and that this machine can be a part of it, if it is to be one."""
    if not 0 <= cluster.rank < cluster.nodes:
        raise ConfigError(
            f"--nodes {cluster.nodes} --node-rank {cluster.rank}: ranks go from 0 to the number of nodes "
            "less one"
        )
    if cluster.nodes > 1 and cluster.address is None:
        raise ConfigError(f"--nodes {cluster.nodes} needs --address, the first node's name or number")
    if not present:
        return
    kind = _kind(file)
    here = gpus()
    if kind == "FSDP" and not here:
        raise ConfigError(f"--strategy {strategy} needs GPUs: without one it would silently be ddp; use that")
    if here and cluster.processes > here:
        raise ConfigError(
            f"--gpus {cluster.processes}: this machine has {here}; two processes cannot share one"
        )


def gpus() -> int:
    """Number of GPUs that a training may use here.

    Torch, which takes seconds to import, is only asked where there is a driver.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count()


def interface_to(address: str, port: int, patience: float = 0.0) -> str:
    """Name of the network interface that packets to ``address`` leave by; for this machine's own address, the
    one that has it.

    Args:
        patience: Seconds until the name must be known: a cluster may start this machine before that one.

    Raises:
        ConfigError: the name is unknown, or no interface leads there.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until and not _known(address, port):
        time.sleep(1.0)
    try:
        family, _, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # a datagram socket: nothing is sent
            mine = ipaddress.ip_address(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"--address {address}: {error}; give the first node's name or number, as this node knows it"
        ) from error
    for name, addresses in psutil.net_if_addrs().items():
        for found in addresses:
            if found.family == family and ipaddress.ip_address(found.address.partition("%")[0]) == mine:
                return name
    raise ConfigError(f"--address {address}: no interface has {mine}; name one with --interface")


def _is_number(address: str) -> bool:
    try:
        return bool(ipaddress.ip_address(address))
    except ValueError:
        return False


def _known(address: str, port: int) -> bool:
    try:
        return bool(socket.getaddrinfo(address, port))
    except OSError:
        return False


def _servers(
    config: RunConfig, cluster: Cluster, source: str, overrides: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Commands of the servers on this machine; those elsewhere are somebody else's to start."""
    if config.rollout.engine != "vllm-server" or cluster.rank:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for address in config.rollout.servers:
        parts = urlsplit(address)
        if parts.hostname in _LOOPBACK:
            command = [sys.executable, "-m", "recrl.launch.cli", "serve", source, *overrides]
            found[address] = (*command, "--port", str(parts.port or 80))
    here, each = gpus(), config.rollout.tensor_parallel
    if here and cluster.processes + len(found) * each > here:
        raise ConfigError(
            f"--gpus {cluster.processes} and {len(found)} servers with rollout.tensor_parallel={each} need "
            f"{cluster.processes + len(found) * each} GPUs, this machine has {here}; train on fewer, or name "
            "servers of other machines"
        )
    if not here:
        return found
    firsts = (cluster.processes + i * each for i in range(len(found)))  # behind those of the training
    visible = (",".join(map(str, range(first, first + each))) for first in firsts)
    return {
        address: ("env", f"CUDA_VISIBLE_DEVICES={numbers}", *command)
        for numbers, (address, command) in zip(visible, found.items(), strict=True)
    }
