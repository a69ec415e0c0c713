"""An adapter whose changes are added to a model's weights when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NoiseExpert = Literal["any", "high", "low", "both"]  # any: of a model with one network


@dataclass(frozen=True)
class FusedAdapter:
    """An adapter in a model's card.

    Attributes:
        name: of the file, without its folder. path: of the file. sha256: of its bytes, 64 hexadecimal digits.
        expert: the network, or networks, of a pair that get its changes.
    """

    name: str
    path: str
    sha256: str
    strength: float
    expert: NoiseExpert
