"""Show texts that come from files of strangers. Needs no torch."""

from __future__ import annotations

MAX_SHOWN = 120  # characters of a name in a message


def printable(text: str) -> str:
    """Return a text as a terminal can show it: what would move its cursor, or turn its letters round, is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(name: str) -> str:
    """Return a name from a file as it can be printed: escaped and cut where it is long or has odd characters."""
    text = name if name.isprintable() and name else ascii(name)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
