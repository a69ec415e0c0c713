"""Where output goes: results to standard output, everything else to standard error."""

from __future__ import annotations

import os

from rich.console import Console

WIDE = 400  # characters: wider than any table


def stdout(width: int | None = None) -> Console:
    """Make a console of at most ``width`` characters.

    Where the output is not a terminal, and COLUMNS does not say how wide it is, each row of a table is one line.
    """
    console = Console(highlight=False)
    room = console.width if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal() else WIDE
    return Console(highlight=False, width=room if width is None else min(width, room))


def stderr() -> Console:
    return Console(stderr=True, highlight=False)
