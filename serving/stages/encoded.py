"""The conditioner's result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zoetrope.model.runtime.byte_cache import CacheFigures


@dataclass
class Encoded:
    """The conditions of a segment: one reference to a `model.denoising.conditions.Conditions`, in a list so that Ray
    does not resolve it on the way.

    Attributes:
        seconds: of work on them. process: that made them. caches: of that process so far, by what they hold.
    """

    conditions: list[Any]
    seconds: float = 0.0
    process: str = ""
    caches: dict[str, CacheFigures] = field(default_factory=dict)
