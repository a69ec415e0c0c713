"""Flow-matching training of the transformers that this floor runs."""
