"""Short training runs whose answers vLLM samples: the script behind test_rollouts.py.

Usage: vllm_rollouts.py OUTPUT [one | ddp | zero3] POLICY ADDRESS; POLICY is a folder, ADDRESS a server of it.
Writes for each run what the trainer logged.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from fixed_rollouts import distributed_state, policy_and_tokenizer, record_answers, trainer_for
from peft import LoraConfig

from recrl.rewards import reward
from recrl.rl.rollouts.base import RolloutError
from recrl.rl.rollouts.make import make_engine
from recrl.rl.rollouts.settings import RolloutConfig

LONGEST = 64  # tokens
HIDDEN = 128


@reward("vowels", range=(0, 1))
def vowels(completions: Any) -> list[float]:
    """Share of an answer's characters: a policy that knows nothing yet gets a gradient from it at once."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]


# Every step of these moves the weights.
MOVING: dict[str, Any] = {"rewards": ("vowels",), "objective": "vowels", "constraints": ()}
SEEDS, LONG = range(4), 20


def settings(name: str, policy: Path, address: str) -> RolloutConfig:
    """Those that engine and server share; the policy's folder stands for the run's."""
    return RolloutConfig(
        engine=name,
        servers=(address,),
        kv_cache=0.1,
        transfer="files",
        exchange=policy / "exchange",
        patience=60,
    )


def engine(name: str, policy: Path, address: str) -> Any:
    return make_engine(settings(name, policy, address), policy, "float32", LONGEST, policy)


class Forgetful:
    """An engine that says it took the weights over, and did not."""

    def __init__(self, real: Any) -> None:
        self.real, self.dtype = real, real.dtype
        self.taken = False

    def update(self, version: str, weights: Any) -> None:
        self.real.update(version, weights if not self.taken else lambda: iter(()))
        self.taken = True

    def generate(self, *arguments: Any) -> Any:
        return self.real.generate(*arguments)


def trainer_of(folder: Path, **options: Any) -> Any:
    """A trainer of the served policy; a head of vLLM has at least 32 dimensions on a CPU."""
    served = {"change": lambda _: policy_and_tokenizer(HIDDEN)[0], "learning_rate": 1e-2}
    return trainer_for(folder, **{**served, **options})


def run(folder: Path, **options: Any) -> dict[str, Any]:
    """Train and return what every step logged, and how many answers this rank sampled."""
    trainer = trainer_of(folder, **options)
    answers = record_answers(trainer)
    error = None
    try:
        trainer.train()
    except RolloutError as caught:
        error = str(caught)
    return {"log": trainer.state.log_history, "answers": len(answers), "error": error}


def main() -> None:
    output, kind, policy, address = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    if kind == "zero3":
        import deepspeed

        # Its shared-memory collectives would be compiled first; gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    distributed_state()
    found: dict[str, Any] = {}
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    for name in ("vllm-colocate", "vllm-server"):
        rollouts = engine(name, policy, address)
        moving = {"rollouts": rollouts, **MOVING}
        found[name] = run(output / name, **moving)
        found[f"{name} lora"] = run(output / name, **moving, peft_config=lora)
        if kind == "one":
            found[f"{name} corrected"] = run(output / name, **moving, correct_rollouts=True, top_p=0.9)
            found[f"{name} forgetful"] = run(output / name, **{**moving, "rollouts": Forgetful(rollouts)})
        if kind == "one" and name == "vllm-colocate":
            for seed in SEEDS:
                for backend, chosen in (("vllm", rollouts), ("transformers", None)):
                    options: dict[str, Any] = {"seed": seed, "max_steps": LONG, "learning_rate": 3e-3}
                    found[f"{backend} {seed}"] = run(output / backend, rollouts=chosen, **options)
        rollouts.close()
    rank = os.environ.get("RANK", "0")
    output.mkdir(parents=True, exist_ok=True)
    (output / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
