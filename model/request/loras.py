"""Adapters (LoRA) that a request asks for by name, and what they are resolved to. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_RANK = 128  # of all adapters of a request together
MAX_ADAPTER_BYTES = 3 << 29  # of a file to register: 1.5 GiB
RANK_CLASSES = (16, 32, 64, 128)  # ranks of slots, to which adapters are filled up with zeros
ADAPTERS = "adapters"  # folder of their files in the service's storage


@dataclass(frozen=True)
class AdapterUse:
    """An adapter of a segment.

    Attributes:
        name: for messages. key: of its file in the service's storage. digest: SHA-256 of that file. rank: the columns
            of a slot that it takes.
    """

    name: str
    key: str
    digest: str
    rank: int
    strength: float = 1.0
    strength_low: float | None = None

    def __str__(self) -> str:
        low = "" if self.strength_low is None else f"/{self.strength_low!r}"
        return f"{self.digest}*{self.strength!r}{low}"


def slot_key(loras: Sequence[AdapterUse]) -> tuple[str, ...]:
    """Name what a slot holds for a segment with these adapters: the digests, in their order; () for none."""
    return tuple(lora.digest for lora in loras)
