"""Processes of a service, found by a mark in their environment whoever their parents are by now."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil

MARK = "ZOETROPE_MARK"


def end_marked(mark: str) -> bool:
    """Kill all processes but this one whose mark begins with ``mark``, and those of their sessions, stopped ones as
    well; whether there were none left. Some overwrite their environment with their title, and are known by their
    session alone."""
    if not mark:
        raise ValueError("the mark is empty, which all processes would match")
    everybody = list(psutil.process_iter())
    sessions = {_session(process) for process in everybody if _mark(process).startswith(mark)}
    return _end(everybody, sessions)


def end_session(leader: int) -> None:
    """Kill all processes of the session that ``leader`` led, which has only just ended."""
    _end(list(psutil.process_iter()), {leader})


def _end(processes: list[psutil.Process], sessions: set[int]) -> bool:
    left = [p for p in processes if p.pid != os.getpid() and _session(p) in sessions - {0} and _lives(p)]
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    return not left


def _session(process: psutil.Process) -> int:
    """0 for one that is gone."""
    with suppress(OSError):
        return os.getsid(process.pid)
    return 0


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _mark(process: psutil.Process) -> str:
    """Of a process that is dead, or somebody else's, none."""
    with suppress(psutil.Error, OSError):
        mark: str = process.environ().get(MARK, "")
        return mark
    return ""
