"""Format exceptions for the log without any text that clients wrote."""

from __future__ import annotations

import sqlite3
import traceback

from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.storage.store import ArtifactError

SAFE_TO_LOG = (OSError, sqlite3.Error, StoreError, ArtifactError)


def describe(error: BaseException) -> str:
    """Format a traceback. Only messages that cannot contain a prompt (system and store errors) are included."""
    lines = traceback.format_tb(error.__traceback__)
    shown = f": {error}" if isinstance(error, SAFE_TO_LOG) else ""
    text = "".join(lines) + f"{type(error).__module__}.{type(error).__qualname__}{shown}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{describe(cause)}\nand then:\n{text}" if cause else text
