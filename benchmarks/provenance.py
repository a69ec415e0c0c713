"""What the pages of all benchmarks say of where their figures are from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def commit_of(where: Mapping[str, Any]) -> str:
    """The code that ran, of ``where['commit']`` and whether it was ``where['changed']``."""
    return f"commit {where['commit']}{' with changes' if where['changed'] else ''}"


def busy(about: Mapping[str, Any]) -> str | None:
    """What a reader must know of a machine that was not ``idle``."""
    if about["idle"]:
        return None
    load = about["load_average"][0]
    return f"The machine was not idle: its load average was {load:.2f} before this began, on {about['cores']} cores."
