"""Token ids of answers."""
