"""Processes by number, told apart from later ones that got the same number."""

from __future__ import annotations

import os
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


def kill_process(process: Process) -> None:
    """SIGKILL, which ends a stopped process too; nothing where it is gone already."""
    try:
        found = psutil.Process(process.pid)
        if abs(found.create_time() - process.started) < 1:
            found.kill()
    except psutil.NoSuchProcess:
        pass
