"""The constrained optimiser. Numbers only: it knows torch, and neither TRL, nor tasks, nor rewards."""
