"""The constrained optimiser. It knows numbers and torch only: neither TRL, nor tasks, nor rewards."""
