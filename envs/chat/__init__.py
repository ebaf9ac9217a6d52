"""Models that are asked in words."""
