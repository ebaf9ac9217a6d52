"""A base model that learns to read is the ordinary warm start."""

import killed_warm_starts
import poisoned
import pytest
from listed import Listed

from recrl.rl import policy
from recrl.rl.distributed.checkpoints import CheckpointError
from recrl.rl.hybrid.reading import read
from recrl.rl.hybrid.settings import ReadingConfig
from recrl.rl.policy.settings import PolicyConfig, TinyConfig, WarmStartConfig


def test_a_full_disk_says_how_this_training_goes_on(tmp_path):
    rows, tags = killed_warm_starts.forty_rows(), killed_warm_starts.TAGS
    model, tokenizer = policy.load(
        PolicyConfig(tiny=TinyConfig(hidden=32, vocabulary=300)),
        options=tags.tags,
        texts=[row["prompt"][0]["content"] for row in rows],
    )
    short = WarmStartConfig(steps=4, prompts_per_step=2, lists_per_prompt=2, save_every=2)
    config = ReadingConfig(short=short, long=short)
    with poisoned.full_disk(20_000), pytest.raises(CheckpointError, match="after step 2") as error:
        read(model, tokenizer, Listed(tags, 2), rows, rows, config, 0, tmp_path / "reading")
    assert str(error.value).endswith("make room; the same command goes on")
