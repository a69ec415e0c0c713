"""Requests: tasks, sizes, limits, segments. Needs no torch."""
