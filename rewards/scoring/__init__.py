"""How rewards are called."""
