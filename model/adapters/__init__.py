"""Adapters (LoRA and its relatives): changes to a model's tensors, read from files and applied when it is loaded."""
