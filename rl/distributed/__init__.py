"""Several processes that train together: who they are, and the checkpoints that they share."""
