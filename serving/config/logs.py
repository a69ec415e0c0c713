"""The logs of all processes: their form, and exceptions without any text that clients wrote."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import traceback
from typing import Literal, TypeAlias

from zoetrope.cluster.telemetry.logs import TEXT, JsonFormatter, TextFormatter
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.storage.store import ArtifactError

LogFormat: TypeAlias = Literal["text", "json"]

VARIABLE = "ZOETROPE_LOG_FORMAT"  # for processes that have no settings yet
SAFE_TO_LOG = (OSError, sqlite3.Error, StoreError, ArtifactError)


def set_up(log_format: LogFormat) -> None:
    """Log to standard error in this form, in this process and in those of Ray that it starts."""
    os.environ[VARIABLE] = log_format
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def formatter(log_format: str, text: str = TEXT) -> logging.Formatter:
    """Return a formatter; ``text``: the form of a line that is not JSON."""
    return JsonFormatter(describe) if log_format == "json" else TextFormatter(describe, text)


def describe(error: BaseException) -> str:
    """Format a traceback. Only messages that cannot contain a prompt (system and store errors) are included."""
    lines = traceback.format_tb(error.__traceback__)
    shown = f": {error}" if isinstance(error, SAFE_TO_LOG) else ""
    text = "".join(lines) + f"{type(error).__module__}.{type(error).__qualname__}{shown}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{describe(cause)}\nand then:\n{text}" if cause else text
