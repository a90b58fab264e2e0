"""How does a checkpoint become a bundle? Converts, quantizes, measures and refuses what is not truthful."""
