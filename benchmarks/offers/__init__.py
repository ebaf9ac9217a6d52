"""Ranking by ``offer_acceptance``, and how far its probabilities can be trusted, on later campaigns."""
