"""The Replicate API."""
