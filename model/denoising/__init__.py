"""Denoise: steps, samplers, guidance, chained segments and their state."""
