"""Serve deployments around the engine: the conditioner (prompts to conditions) and the decoder (latents to files)."""
