"""A run does not wait for a vLLM that it does not use, and still finds TRL's client of it."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

SCRIPT = """
import sys
from recrl.rl.trainer.without_vllm import import_trl

import_trl()
import recrl.launch.run.pipeline
assert "trl.trainer.grpo_trainer" in sys.modules
assert "vllm" not in sys.modules, "imported with TRL"
from trl.import_utils import is_vllm_available
from recrl.rl.rollouts import nccl
assert "vllm" in sys.modules
client = nccl.Sender.__mro__[1]
assert client.__name__ == "VLLMClient"
known = vars(sys.modules[client.__module__])
assert is_vllm_available(min_version="0.28.0") == known["_HAS_STATEFUL_TRAINER_ENGINE"] == True
assert {"open_trainer_endpoint", "packed_nccl_broadcast_producer", "get_ip"} <= set(known)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_training_imports_no_vllm_and_weights_go_by_trls_client_all_the_same():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
