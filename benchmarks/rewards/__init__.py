"""Cost of rewards: the engine's own time, the rewards of the tag task beside a step, and a slow judge."""
