"""The rewards that come along."""
