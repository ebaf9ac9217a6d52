"""TRL's trainer, made ours; nothing else knows its private methods."""
