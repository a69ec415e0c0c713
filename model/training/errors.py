"""The trainer's error."""

from __future__ import annotations


class TrainingError(Exception):
    """A run cannot start or resume: one line that names the field, file or key, the value and the limit."""
