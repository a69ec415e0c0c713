"""The log of everything that runs in Ray, kept in the data directory: ``logs/cluster.log``."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path
from types import TracebackType

from serving.gateway.logs import describe

LOG_BYTES = 8 << 20  # after which it goes on in a new file; one old one is kept
VARIABLE = "ZOETROPE_CLUSTER_LOG"


class _Format(logging.Formatter):
    """Exceptions without their messages where those could hold a prompt."""

    def formatException(  # noqa: N802
        self, info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return describe(info[1]) if info[1] is not None else ""


def set_up() -> None:
    """Send what this process logs to the file; Ray calls it in each of its workers."""
    path = os.environ[VARIABLE]
    handler = WatchedFileHandler(path, delay=True)  # which many append to, and which follows when it is renamed
    handler.setFormatter(_Format("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"))
    logger = logging.getLogger("zoetrope")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def log_of(logs: Path) -> Path:
    return logs / "cluster.log"


def bound(logs: Path) -> None:
    """Begin a new file where this one is large."""
    path = log_of(logs)
    with suppress(OSError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
