"""Ready-made run configurations (YAML only)."""
