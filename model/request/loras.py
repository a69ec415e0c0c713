"""Adapters (LoRA) that a request asks for by name, and what they are resolved to. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

MAX_LORAS = 2  # of a request
MAX_STRENGTH = 2.0  # either way, in requests
MAX_RANK = 128  # of all adapters of a request together
MAX_ADAPTER_BYTES = 3 << 29  # of a file to register: 1.5 GiB
RANK_CLASSES = (16, 32, 64, 128)  # ranks of slots, to which adapters are filled up with zeros
ADAPTERS = "adapters"  # folder of their files in the service's storage
MAX_SHOWN_CHARS = 80


class Lora(BaseModel):
    """An adapter of a request.

    Attributes:
        name: under which it is registered. strength: by which it is multiplied. strength_low: the same for the
            low-noise expert of two; None: as the other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    strength: float = 1.0
    strength_low: float | None = None


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


def lora_problems(loras: Sequence[Lora]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a request's adapters that break a limit, and the reasons; whether they exist is not known
    here."""
    if len(loras) > MAX_LORAS:
        yield "loras", f"has {len(loras)} entries, at most {MAX_LORAS} are allowed"
    seen: set[str] = set()
    for number, lora in enumerate(loras):
        where = f"loras.{number}"
        if not lora.name:
            yield f"{where}.name", "is empty"
        elif lora.name in seen:
            yield f"{where}.name", f"{lora.name[:MAX_SHOWN_CHARS]!r} is named twice"
        seen.add(lora.name)
        for field, value in (("strength", lora.strength), ("strength_low", lora.strength_low)):
            if value is not None and not (math.isfinite(value) and abs(value) <= MAX_STRENGTH):
                yield f"{where}.{field}", f"{value:g} must be from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"


def slot_key(loras: Sequence[AdapterUse]) -> tuple[str, ...]:
    """Name what a slot holds for a segment with these adapters: the digests, in their order; () for none."""
    return tuple(lora.digest for lora in loras)
