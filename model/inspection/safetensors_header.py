"""Read and check the header of a safetensors file without a library, and nothing but the header. Needs no torch.

Format: README of the safetensors project: eight bytes of length, a JSON object of names, types, shapes and spans, then
the tensors, end to end. A file from a stranger may lie about all of it, so every number is checked against the others
and against the file's size before any of them is used.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from zoetrope.model.inspection.files import LFS_HINT, LFS_START, ModelError
from zoetrope.model.inspection.shown import shown

LENGTH_BYTES = 8
MAX_DIMENSIONS = 8
MAX_NAME_CHARS = 1_024
MAX_BRACKETS = 1_000_000  # three of a tensor; each takes twenty times its own memory once it is read
# Bits of an element of each type of the format.
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class HeaderLimits:
    """What a file may have at most; None: any.

    Attributes:
        types: names of the format, such as BF16. metadata_bytes: of names and values together.
    """

    header_bytes: int = 32 << 20  # that of the largest model has one or two
    metadata_bytes: int | None = None
    tensors: int | None = 100_000
    file_bytes: int | None = None
    types: tuple[str, ...] | None = None


ANY_FILE = HeaderLimits()


@dataclass(frozen=True)
class SafetensorsEntry:
    """A tensor's type and shape, and where its bytes are: from ``start`` up to ``end``, counted from the file's
    beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file says it holds: tensors, in the order of their bytes, and texts by name."""

    path: Path
    entries: tuple[SafetensorsEntry, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> Mapping[str, SafetensorsEntry]:
        """The tensors by name, in the order of their bytes."""
        return {entry.name: entry for entry in self.entries}

    def read(self, name: str) -> bytearray:
        """Read a tensor's bytes.

        Raises:
            ModelError: the file has changed since, so that it ends before the tensor does.
        """
        span = self.tensors[name]
        data = bytearray(span.size)
        try:
            with self.path.open("rb") as file:
                file.seek(span.start)
                read = file.readinto(data)
        except OSError as error:
            raise _unreadable(self.path, str(error.strerror)) from None
        if read != span.size:
            raise _unreadable(self.path, f"it ends within {shown(name)}")
        return data


def read_safetensors_header(path: Path, limits: HeaderLimits = ANY_FILE) -> SafetensorsHeader:
    """Read a header and check it: unique names, known types, spans that follow each other without gaps up to the end of
    the file, each as long as its shape and type say.

    Raises:
        ModelError: the file is missing, damaged, too large, in another format, or holds a type that is not allowed.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
            raise ModelError(f"{path}: is not a file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(LENGTH_BYTES)
            length = _header_length(path, start, size, limits)
            text = file.read(length)
    except FileNotFoundError:
        raise ModelError(f"{path}: the file is missing") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) != length:
        raise _unreadable(path, f"it is cut off after {LENGTH_BYTES + len(text)} bytes, within its header")
    entries = _entries(path, text)
    metadata = _metadata(path, entries.pop("__metadata__", {}), limits)
    if limits.tensors is not None and len(entries) > limits.tensors:
        raise ModelError(f"{path}: holds {len(entries)} tensors, at most {limits.tensors} are read")
    begin = LENGTH_BYTES + length
    spans = sorted((_span(path, name, entry, begin, limits) for name, entry in entries.items()), key=_place)
    end = begin
    for span in spans:
        if span.start != end:
            what = "overlaps the one before it" if span.start < end else "does not follow the one before it"
            raise _unreadable(path, f"{shown(span.name)} {what}")
        end = span.end
    if size != end:
        what = "cut off" if size < end else "too long"
        raise _unreadable(path, f"it is {what}: {size} bytes of {end} by its header")
    return SafetensorsHeader(path, tuple(spans), metadata)


def _place(span: SafetensorsEntry) -> tuple[int, int]:
    return span.start, span.end


def _header_length(path: Path, start: bytes, size: int, limits: HeaderLimits) -> int:
    if limits.file_bytes is not None and size > limits.file_bytes:
        raise ModelError(f"{path}: has {size} bytes, at most {limits.file_bytes} are read")
    if len(start) == LENGTH_BYTES and LFS_START.startswith(start):
        raise ModelError(f"{path}: {LFS_HINT}")
    length = int.from_bytes(start, "little")
    if len(start) < LENGTH_BYTES or not 2 <= length <= limits.header_bytes:
        raise _unreadable(path, f"it has {size} bytes and does not begin with a header")
    if size < LENGTH_BYTES + length:
        raise _unreadable(path, f"it is cut off after {size} bytes, within its header")
    return length


def _entries(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise _unreadable(path, f"its header names {shown(twice)} twice")
        return found

    if (count := sum(map(text.count, (b"[", b"{")))) > MAX_BRACKETS:
        raise _unreadable(path, f"its header has {count} brackets, at most {MAX_BRACKETS} are read")
    try:
        entries = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise _unreadable(path, "its header is damaged") from None
    if not isinstance(entries, dict):
        raise _unreadable(path, "its header is damaged")
    return entries


def _metadata(path: Path, value: object, limits: HeaderLimits) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _unreadable(path, "its __metadata__ is not texts by name")
    size = sum(len(name) + len(text) for name, text in value.items())
    if limits.metadata_bytes is not None and size > limits.metadata_bytes:
        raise ModelError(f"{path}: its __metadata__ has {size} characters, at most {limits.metadata_bytes} are read")
    return value


def _span(path: Path, name: str, entry: object, begin: int, limits: HeaderLimits) -> SafetensorsEntry:
    damaged = _unreadable(path, f"its header is damaged at {shown(name)}")
    if len(name) > MAX_NAME_CHARS:
        raise damaged
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise damaged
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if len(numbers) > MAX_DIMENSIONS + 2 or not all(type(n) is int and n >= 0 for n in numbers) or len(offsets) != 2:
        raise damaged
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _unreadable(path, f"{shown(name)} is stored as {shown(str(dtype))}, which is no type of the format")
    if limits.types is not None and dtype not in limits.types:
        raise ModelError(f"{path}: {shown(name)} is stored as {dtype}, expected one of {', '.join(limits.types)}")
    bits = math.prod(shape) * BITS[dtype]
    size = offsets[1] - offsets[0]
    if size < 0 or size * 8 != bits:
        raise _unreadable(path, f"{shown(name)} has {size} bytes, its shape and type need {bits // 8}")
    return SafetensorsEntry(name, dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: cannot be read as safetensors: {why}")
