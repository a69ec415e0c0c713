"""Compare a model's step time in the service with that of the bare model."""
