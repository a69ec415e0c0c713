"""Choose which layers stay on the device and which are streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """What stays and what is streamed, of each of the networks of one device, which are alike.

    Attributes:
        resident: the numbers of the layers that stay. sizes: bytes of every layer. networks: how many.
    """

    resident: frozenset[int]
    sizes: tuple[int, ...]
    networks: int

    @property
    def streamed(self) -> tuple[int, ...]:
        """Return the numbers of the layers that are streamed, in order."""
        return tuple(number for number in range(len(self.sizes)) if number not in self.resident)

    @property
    def slabs(self) -> tuple[int, ...]:
        """Return the bytes of the device's slabs, which the networks share; streamed layers take turns in them."""
        streamed = self.streamed
        return tuple(max(self.sizes[number] for number in streamed[turn::2]) for turn in range(min(2, len(streamed))))

    @property
    def device_bytes(self) -> int:
        """Return what the layers take on the device."""
        return self.networks * sum(self.sizes[number] for number in self.resident) + sum(self.slabs)

    @property
    def host_bytes(self) -> int:
        return self.networks * sum(self.sizes[number] for number in self.streamed)


def split(sizes: Sequence[int], room: int, networks: int = 1) -> Split:
    """Keep as many layers as fit, spread evenly, so that the copies of the others are spread as well.

    Streamed layers take turns in two slabs, also from the last of one pass to the first of the next: so there is an
    even number of them. If not even the fewest fit, those are returned.

    Args:
        sizes: bytes of the layers. room: bytes for all layers on the device. networks: alike, all of which share it.
    """
    count, found = len(sizes), None
    for kept in range(count, -1, -2):
        found = Split(spread(count, kept), tuple(sizes), networks)
        if found.device_bytes <= room:
            break
    assert found is not None
    return found


def spread(count: int, kept: int) -> frozenset[int]:
    """Choose ``kept`` of ``count`` numbers at equal distances."""
    return frozenset((2 * place + 1) * count // (2 * kept) for place in range(kept))
