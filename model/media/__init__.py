"""Decoded pictures and clips."""
