"""Processes of a service, found by a mark in their environment whoever their parents are by now."""

from __future__ import annotations

from contextlib import suppress

import psutil

MARK = "ZOETROPE_MARK"


def end_marked(mark: str, but: int | None = None) -> bool:
    """Kill all processes whose mark begins with ``mark``, stopped ones as well; whether there were none left.

    Args:
        but: a process that is spared.
    """
    if not mark:
        raise ValueError("the mark is empty, which all processes would match")
    left = [process for process in psutil.process_iter() if process.pid != but and _mark(process).startswith(mark)]
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    return not left


def _mark(process: psutil.Process) -> str:
    """Of a process that is dead, or somebody else's, none."""
    with suppress(psutil.Error, OSError):
        mark: str = process.environ().get(MARK, "")
        return mark
    return ""
