"""Read the header of a GGUF file: its fields, and names, types, shapes and places of tensors. Needs no torch.

The format is that of ggml's docs/gguf.md, versions 2 and 3, little-endian. Every count is checked before anything is
read by it, so that a damaged or hostile file costs neither time nor memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from zoetrope.model.inspection.files import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_GGUF_TENSORS = 20_000
MAX_FIELDS = 10_000
MAX_STRING_BYTES = 1 << 20
MAX_ITEMS = 1_000_000  # of all arrays together
MAX_NAME_BYTES = 1_024
MAX_DIMENSIONS = 8  # llama.cpp has 4; converters of video models write 5
MAX_ALIGNMENT = 1 << 20
ALIGNMENT_FIELD, DEFAULT_ALIGNMENT = "general.alignment", 32
# Types of tensors that are read: (values in a block, bytes of a block).
GGUF_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
GGUF_PLAIN = ("F32", "F16", "BF16")
# Others, to name them in an error.
_OTHER_TYPES = {
    **{9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S"},
    **{24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
    **{40: "NVFP4", 41: "Q1_0"},
}
# Types of fields, by number: the form of struct.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufEntry:
    """A tensor. ``shape`` is in the order of torch, the reverse of the file's; ``start`` and ``end`` are its first byte
    in the file, and the one past its last."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    """What a file's header says. ``fields``: numbers, texts, flags, and tuples of them."""

    path: Path
    fields: Mapping[str, Any]
    entries: tuple[GgufEntry, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check a header.

    Raises:
        ModelError: the file cannot be read, is cut off, has a tensor of a type that is not read, or a count above its
            limit; the message names the tensor or field.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Reader(path, file, size).header()
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None


class _Reader:
    """Reads values one after the other, and refuses to read past the end."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._size = size
        self._at = 0
        self._items = 0

    def header(self) -> GgufHeader:
        if self._bytes(min(4, self._size)) != MAGIC:
            raise _unreadable(self._path, "it does not begin with GGUF")
        version = self._number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(struct.pack("<I", version), "big") in VERSIONS
            why = "it is big-endian, little-endian files are read" if swapped else f"version {version} is not read"
            raise _unreadable(self._path, why)
        tensors, fields = self._count("tensors", MAX_GGUF_TENSORS), self._count("fields", MAX_FIELDS)
        values: dict[str, Any] = {}
        for _ in range(fields):
            name = self._string()
            if name in values:
                raise _unreadable(self._path, f"it has the field {name[:100]} twice")
            values[name] = self._value(self._number("I"), name)
        alignment = values.get(ALIGNMENT_FIELD, DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _unreadable(self._path, f"{ALIGNMENT_FIELD} is {str(alignment)[:40]}, must be a power of two")
        described = [self._tensor() for _ in range(tensors)]
        base = -(-self._at // alignment) * alignment
        return GgufHeader(self._path, values, self._placed(described, base, alignment))

    def _placed(self, described: list[GgufEntry], base: int, alignment: int) -> tuple[GgufEntry, ...]:
        names: set[str] = set()
        for entry in described:
            if entry.name in names:
                raise _unreadable(self._path, f"it holds {entry.name[:100]} twice")
            if entry.start % alignment:
                raise _unreadable(self._path, f"{entry.name[:100]} does not begin at a multiple of {alignment} bytes")
            names.add(entry.name)
        end = 0
        for entry in sorted(described, key=lambda entry: (entry.start, entry.end)):
            if entry.start < end:
                raise _unreadable(self._path, f"{entry.name[:100]} shares bytes with another tensor")
            end = entry.end
        if base + end > self._size:
            raise _unreadable(self._path, f"it is cut off: {self._size} bytes of {base + end} by its header")
        return tuple(GgufEntry(e.name, e.kind, e.shape, base + e.start, base + e.end) for e in described)

    def _tensor(self) -> GgufEntry:
        """Read a tensor's description; its places count from the end of the header."""
        name = self._string(MAX_NAME_BYTES)
        shown = name[:100]
        dimensions = self._number("I")
        if not 0 < dimensions <= MAX_DIMENSIONS:
            raise _unreadable(self._path, f"{shown} has {dimensions} dimensions, 1 to {MAX_DIMENSIONS} are read")
        sides = [self._number("Q") for _ in range(dimensions)]
        number, offset = self._number("I"), self._number("Q")
        if number not in GGUF_TYPES:
            kind = _OTHER_TYPES.get(number, f"number {number}")
            served = ", ".join(kind for kind, _, _ in GGUF_TYPES.values())
            raise ModelError(f"{self._path}: {shown} is of type {kind}; types that are read: {served}")
        kind, block, size = GGUF_TYPES[number]
        if sides[0] % block:
            raise _unreadable(self._path, f"{shown} has rows of {sides[0]}, {kind} needs a multiple of {block}")
        values = math.prod(sides)
        if values >= 2**48:
            raise _unreadable(self._path, f"{shown} has {values} values")
        return GgufEntry(name, kind, tuple(reversed(sides)), offset, offset + values // block * size)

    def _value(self, kind: int, name: str, inside: bool = False) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or inside:
            raise _unreadable(self._path, f"the field {name[:100]} is of type {kind}, which is not read")
        item, count = self._number("I"), self._number("Q")
        self._items += count
        if self._items > MAX_ITEMS:
            raise _unreadable(self._path, f"the field {name[:100]} has {count} items, at most {MAX_ITEMS} are read")
        if item in _NUMBERS:
            form = f"<{count}{_NUMBERS[item]}"
            return struct.unpack(form, self._bytes(struct.calcsize(form)))
        return tuple(self._value(item, name, inside=True) for _ in range(count))

    def _count(self, what: str, most: int) -> int:
        count: int = self._number("Q")
        if count > most:
            raise _unreadable(self._path, f"it says that it has {count} {what}, at most {most} are read")
        return count

    def _string(self, most: int = MAX_STRING_BYTES) -> str:
        length = self._number("Q")
        if length > most:
            raise _unreadable(self._path, f"it has a text of {length} bytes, at most {most} are read")
        return self._bytes(length).decode(errors="replace")

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))
        return value

    def _bytes(self, count: int) -> bytes:
        if self._at + count > self._size:
            raise _unreadable(self._path, f"it is cut off after {self._size} bytes, within its header")
        self._at += count
        return self._file.read(count)


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: cannot be read as GGUF: {why}")
