"""What is wrong with a policy."""


class PolicyError(ValueError):
    """A policy cannot be had; the message names the setting or the model, and the fix."""
