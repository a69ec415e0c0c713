"""The API of fal's queue."""
