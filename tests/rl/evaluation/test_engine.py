"""vLLM as a writer: what transformers writes under the same limits, while requests come and go."""

import numpy as np
import pytest
import torch

from recrl.envs.task import Lines, Text
from recrl.rl import policy
from recrl.rl.decoding.candidates import Candidates
from recrl.rl.decoding.deploy import deploy
from recrl.rl.policy.loading import save_policy
from recrl.rl.policy.settings import PolicyConfig, TinyConfig
from recrl.rl.rollouts.settings import RolloutConfig

pytest.importorskip("vllm", reason="rollouts on vLLM are optional; `make test` installs it")
pytestmark = pytest.mark.slow

# Options are prefixes of one another; half of them are one token each, the others several.
OPTIONS = (
    "candy",
    "candy bars",
    "candy bars - mini",
    "can",
    "soup",
    "soup bowls",
    "seven grain bread",
    "bread",
)
FORM = Lines(OPTIONS, 4)
PROMPTS = [[{"role": "user", "content": f"household {n} " + "soup " * n}] for n in range(10)]


@pytest.fixture(scope="module")
def model():
    return policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=128, vocabulary=280)),
        options=OPTIONS[:4],
        texts=["candy soup household"],
    )


@pytest.fixture(scope="module")
def writer(model, tmp_path_factory):
    from recrl.rl.evaluation.engine import EngineWriter

    folder = tmp_path_factory.mktemp("engine") / "policy"
    save_policy(*model, folder)
    # Three at once: the others wait, and take the places of those that end.
    config = RolloutConfig(kv_cache=0.1, sequences=3)
    found = EngineWriter(folder, config.engine_options("float32", 256), len(model[1]))
    yield found
    found.close()


@pytest.mark.parametrize("copies", [1, 3])
def test_lists_under_prices_and_without_what_is_barred(model, writer, copies):
    bonuses = torch.randn(len(PROMPTS), copies, len(OPTIONS), generator=torch.Generator().manual_seed(0))
    barred = [{number % 8, 2} if number % 3 else range(6) for number in range(len(PROMPTS))]
    given = {"bonuses": lambda first, end: 2 * bonuses[first:end], "barred": barred, "copies": copies}
    own, other = (deploy(one, model[1], PROMPTS, FORM, batch_size=12, **given) for one in (model[0], writer))
    assert other == own
    assert {len(text.splitlines()) for text in own} == {2, 4}
    assert len(set(own)) > 6


@pytest.mark.parametrize(
    ("form", "decoding"),
    [(FORM, "distinct"), (FORM, "grammar"), (Text(6), "free")],
    ids=["list", "grammar", "text"],
)
def test_candidates_and_their_log_probabilities(model, writer, form, decoding):
    found = []
    for one in (model[0], writer):
        drawn = Candidates(4, seed=1)
        texts = deploy(
            *(one, model[1], PROMPTS, form), decoding=decoding, copies=4, batch_size=20, candidates=drawn
        )
        found.append((texts, drawn.logprobs))
    (own, logprobs), (other, others) = found
    assert other == own
    assert len(set(own)) > 15
    np.testing.assert_allclose(others, logprobs, atol=1e-4)
