"""Identify callers by their API keys."""
