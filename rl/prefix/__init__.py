"""Each prompt is read once, however many answers it has."""
