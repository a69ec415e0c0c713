"""A fair lock between the processes that write one SQLite file.

SQLite itself lets in whoever asks at the right moment; others ask again after ever longer pauses. A gateway under load
writes without a pause, so that a router would get its turn only by chance.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.0001, 0.001


class WriterLock:
    """Two file locks: a writer holds the second; whoever waits for it holds the first, so that a writer cannot take the
    next turn as well. A killed process releases its locks."""

    def __init__(self, database: Path) -> None:
        """Open the two lock files beside the database."""
        self._next, self._turn = (
            os.open(f"{database}-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in ("next", "turn")
        )
        self._closed = False

    def acquire(self, timeout_seconds: float) -> bool:
        """Wait for a turn. Returns False if others did not let go in time."""
        deadline = time.monotonic() + timeout_seconds
        if not _lock(self._next, deadline):
            return False
        try:
            return _lock(self._turn, deadline)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def release(self) -> None:
        """End the turn, if there is one."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._next)
            os.close(self._turn)


def _lock(file: int, deadline: float) -> bool:
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        else:
            return True
