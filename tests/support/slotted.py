"""Training of a policy with entity slots, as options of ``fixed_rollouts.trainer_for``."""

from pathlib import Path
from typing import Any

import fixed_rollouts
from entities import TITLES, store_in

from recrl.envs.entities.marks import mark
from recrl.rl.distributed.processes import unsharded
from recrl.rl.policy import slots
from recrl.rl.policy.loading import load, save_policy
from recrl.rl.policy.settings import PolicyConfig
from recrl.rl.trainer.make import distributed_state


def rows() -> list[dict]:
    """Users of two products each."""
    return [
        {
            **row,
            "prompt": [
                {"role": "user", "content": f"user {i}\n{mark(TITLES[i % 12])}{mark(TITLES[(i + 5) % 40])}"}
            ],
        }
        for i, row in enumerate(fixed_rollouts.rows())
    ]


def options(folder: Path) -> dict[str, Any]:
    """Hybrid prompts, and the policy that reads them.

    Args:
        folder: Folder of the policy, which is made where it is not there, beside its store.
    """

    def loaded(model: Any) -> Any:
        with distributed_state().main_process_first():
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                _, tokenizer = fixed_rollouts.policy_and_tokenizer()
                slots.add(model, store_in(folder.parent), 16, seed=0)
                save_policy(model, tokenizer, folder)
        with unsharded():  # a run of recrl loads its policy before DeepSpeed has begun
            return load(PolicyConfig(model=str(folder)))[0]

    return {"data": rows(), "change": loaded}
