"""The error of a policy."""

from ...envs.faults import MendableError


class PolicyError(MendableError, ValueError):
    """A policy cannot be had; the message names the setting or the model, and the fix."""
