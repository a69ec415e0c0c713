"""Find a service's processes by a mark in their environment, whoever their parents are by now."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil

MARK = "ZOETROPE_MARK"
POLL_SECONDS = 0.05


def kill_marked(mark: str) -> bool:
    """Kill every other process whose mark begins with ``mark``, and all processes in their sessions.

    The sessions catch processes whose title has overwritten their environment; stopped processes are killed too.

    Returns:
        Whether there were none left to kill.

    Raises:
        ValueError: the mark is empty.
    """
    if not mark:
        raise ValueError("mark must not be empty: every process would match")
    processes = list(psutil.process_iter())
    sessions = {_session(process) for process in processes if _mark(process).startswith(mark)}
    return _kill(processes, sessions)


def kill_all_marked(mark: str, seconds: float) -> bool:
    """Call `kill_marked` until nothing is left to kill. Returns False if that takes longer than ``seconds``."""
    end = time.monotonic() + seconds
    while not kill_marked(mark):
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def kill_session(leader: int) -> None:
    """Kill all processes of the session led by ``leader``, which has just ended."""
    _kill(list(psutil.process_iter()), {leader})


def _kill(processes: list[psutil.Process], sessions: set[int]) -> bool:
    left = [p for p in processes if p.pid != os.getpid() and _session(p) in sessions - {0} and is_alive(p)]
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    return not left


def _session(process: psutil.Process) -> int:
    """Return the session id; 0 if the process is gone."""
    with suppress(OSError):
        return os.getsid(process.pid)
    return 0


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process has not ended; a zombie has."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _mark(process: psutil.Process) -> str:
    """Return the mark; empty if the process is dead or belongs to another user."""
    with suppress(psutil.Error, OSError):
        mark: str = process.environ().get(MARK, "")
        return mark
    return ""
