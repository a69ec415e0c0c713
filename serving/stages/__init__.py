"""Serve deployments around the engine: prompts to conditions, latents to files."""
