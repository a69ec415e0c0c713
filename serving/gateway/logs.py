"""Exceptions in the log without what clients wrote."""

from __future__ import annotations

import sqlite3
import traceback

from serving.artifacts import ArtifactError
from serving.jobs.store import StoreError

SAFE_TO_LOG = (OSError, sqlite3.Error, StoreError, ArtifactError)


def describe(error: BaseException) -> str:
    """A traceback without the messages that could hold a prompt: those of the system and the stores cannot."""
    lines = traceback.format_tb(error.__traceback__)
    shown = f": {error}" if isinstance(error, SAFE_TO_LOG) else ""
    text = "".join(lines) + f"{type(error).__module__}.{type(error).__qualname__}{shown}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{describe(cause)}\nand then:\n{text}" if cause else text
