"""The speeds of a rank, for the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoetrope.cluster.planning.hardware import Hardware


@dataclass(frozen=True)
class Rates:
    """The speeds of a rank: FLOP/s of three kinds of work, bytes/s of passes over memory.

    Attributes:
        origin: ``roofline``: all from a datasheet and assumed fractions; ``calibrated``: at least one was measured.
        correction: measured over predicted seconds of whole steps on one GPU; 1 without such a measurement.
        notes: where each figure comes from.
    """

    hardware: Hardware
    products: float
    experts: float
    attention: float
    passes: float
    origin: Literal["roofline", "calibrated"] = "roofline"
    correction: float = 1.0
    notes: tuple[str, ...] = ()


def roofline(hardware: Hardware) -> Rates:
    """Return the peaks times the assumed fractions of them."""
    return Rates(
        hardware=hardware,
        products=hardware.peak * hardware.products,
        experts=hardware.peak * hardware.experts,
        attention=hardware.peak * hardware.attention,
        passes=hardware.bandwidth * hardware.passes,
        notes=(
            f"assumed: {hardware.products:.0%} of peak in products, {hardware.experts:.0%} in experts, "
            f"{hardware.attention:.0%} in attention, {hardware.passes:.0%} of the memory's bandwidth",
        ),
    )
