"""Step caching: which steps of a segment reuse the velocity of the one before. Needs no torch."""
