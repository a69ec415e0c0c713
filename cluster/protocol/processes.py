"""Processes by id, distinguished from later ones that reuse the id."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Process:
    """``started`` in seconds since the epoch, as the system counts it."""

    pid: int
    started: float

    @classmethod
    def this(cls) -> Process:
        return cls(os.getpid(), psutil.Process().create_time())

    def runs(self) -> bool:
        """Whether the process exists on this machine."""
        return _find(self) is not None


def kill_process(process: Process) -> None:
    """Send SIGKILL, which also ends a stopped process. Does nothing if the process is gone."""
    found = _find(process)
    if found is not None:
        with suppress(psutil.NoSuchProcess):
            found.kill()


def _find(process: Process) -> psutil.Process | None:
    try:
        found = psutil.Process(process.pid)
        return found if abs(found.create_time() - process.started) < 1 else None
    except psutil.NoSuchProcess:
        return None
