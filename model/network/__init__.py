"""Transformers: the protocol, blocks, experts, packed sequences, and what ranks exchange."""
