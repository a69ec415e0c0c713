"""Read the header of a safetensors file: names, types, shapes and places of tensors, checked before anything is mapped.

The format is that of the safetensors project's README: the length of the header as 8 bytes, the header as JSON, the
tensors' bytes without gaps. Needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoetrope.model.inspection.files import ModelError

MAX_HEADER_BYTES = 100 << 20  # as in safetensors
MAX_SAFETENSORS = 100_000  # tensors in a file
MAX_NAME_CHARS = 1_024
MAX_DIMENSIONS = 8
LENGTH_BYTES = 8
METADATA = "__metadata__"
# Bits of a value of each type.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class SafetensorsEntry:
    """A tensor: ``start`` and ``end`` are its first byte in the file, and the one past its last."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file's header says, in its order; ``metadata`` is its ``__metadata__``."""

    path: Path
    entries: tuple[SafetensorsEntry, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_safetensors_header(path: Path, max_bytes: int | None = None) -> SafetensorsHeader:
    """Read and check a header.

    Args:
        max_bytes: the largest file to accept.

    Raises:
        ModelError: the file is larger, cut off, or its header breaks a rule of the format; the message names the
            tensor.
    """
    try:
        size = path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise ModelError(f"{path}: has {size} bytes, must have at most {max_bytes}")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > MAX_HEADER_BYTES:
                raise _unreadable(path, f"it has {size} bytes and does not begin with a header")
            if size < LENGTH_BYTES + length:
                raise _unreadable(path, f"it is cut off after {size} bytes, within its header")
            text = file.read(length)
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None
    return _parsed(path, text, size)


def _parsed(path: Path, text: bytes, size: int) -> SafetensorsHeader:
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except _Twice as error:
        raise _unreadable(path, f"its header names {error} twice") from None
    except (ValueError, RecursionError):
        raise _unreadable(path, "its header is damaged") from None
    if not isinstance(values, dict):
        raise _unreadable(path, "its header is damaged")
    metadata = values.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _unreadable(path, f"{METADATA} in its header must hold texts")
    if len(values) > MAX_SAFETENSORS:
        raise _unreadable(path, f"it names {len(values)} tensors, at most {MAX_SAFETENSORS} are read")
    base = LENGTH_BYTES + len(text)
    entries = tuple(_entry(path, name, value, base) for name, value in values.items())
    _check_places(path, entries, base, size)
    return SafetensorsHeader(path, entries, metadata)


class _Twice(ValueError):
    """A name is in an object twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1)[:100])
    return found


def _entry(path: Path, name: str, value: Any, base: int) -> SafetensorsEntry:
    shown = name[:100]
    if len(name) > MAX_NAME_CHARS:
        raise _unreadable(path, f"the name {shown}... has {len(name)} characters, at most {MAX_NAME_CHARS} are read")
    if not isinstance(value, dict):
        raise _unreadable(path, f"its header is damaged at {shown}")
    dtype: Any = value.get("dtype")
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    good = _are_whole_numbers(shape) and _are_whole_numbers(offsets) and len(offsets) == 2
    if not (good and isinstance(dtype, str)):
        raise _unreadable(path, f"its header is damaged at {shown}")
    if dtype not in BITS:
        raise _unreadable(path, f"{shown} is of type {dtype[:20]!r}, which the format does not have")
    if len(shape) > MAX_DIMENSIONS:
        raise _unreadable(path, f"{shown} has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are read")
    start, end = offsets
    bits = math.prod(shape) * BITS[dtype]
    if (end - start) * 8 != bits:
        raise _unreadable(path, f"{shown} of shape {shape} in {dtype} does not have {end - start} bytes")
    return SafetensorsEntry(name, dtype, tuple(shape), base + start, base + end)


def _are_whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_places(path: Path, entries: tuple[SafetensorsEntry, ...], base: int, size: int) -> None:
    """Check that the tensors lie one behind the other, and that the file ends with the last."""
    at = base
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.end)):
        if entry.start != at:
            what = "shares bytes with another tensor" if entry.start < at else "has a gap before it"
            raise _unreadable(path, f"{entry.name[:100]} {what}")
        at = entry.end
    if size != at:
        what = "cut off" if size < at else "too long"
        raise _unreadable(path, f"it is {what}: {size} bytes of {at} by its header")


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: cannot be read as safetensors: {why}")
