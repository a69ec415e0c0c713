"""How many examples a property test draws."""

from __future__ import annotations

import hypothesis


def draws(count: int) -> int:
    """``count`` where they are random (`--hypothesis-profile random`); half as many where they are always the same."""
    return (count + 1) // 2 if hypothesis.settings().derandomize else count
