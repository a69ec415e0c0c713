"""Train transformers by flow matching."""
