"""The log of everything that runs in Ray: ``logs/cluster.log`` in the data directory."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path

from zoetrope.serving.config.logs import VARIABLE as FORMAT_VARIABLE
from zoetrope.serving.config.logs import formatter

LOG_BYTES = 8 << 20  # size at which a new file is started; one old file is kept
VARIABLE = "ZOETROPE_CLUSTER_LOG"
TEXT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


def set_up() -> None:
    """Send this process's log to the file named by ZOETROPE_CLUSTER_LOG; without one, to stderr, which Ray keeps."""
    path = os.environ.get(VARIABLE)
    # Many processes append; it follows a rename.
    handler = logging.StreamHandler() if path is None else WatchedFileHandler(path, delay=True)
    handler.setFormatter(formatter(os.environ.get(FORMAT_VARIABLE, "text"), TEXT))
    logger = logging.getLogger("zoetrope")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def log_path(logs: Path) -> Path:
    """Return the path of the log."""
    return logs / "cluster.log"


def rotate(logs: Path) -> None:
    """Start a new file if the log is larger than LOG_BYTES."""
    path = log_path(logs)
    with suppress(OSError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
