"""How well ``offer_acceptance`` ranks and how far its probabilities can be trusted, on later campaigns."""
