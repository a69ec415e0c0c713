"""Import things by name when they are needed, so that a table of names needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_named(path: str) -> Any:
    """Import what ``package.module:name`` names.

    Raises:
        ImportError: there is no such module, or it has no such name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        raise ImportError(f"{module} has no {name!r}") from None
