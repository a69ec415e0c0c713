"""Count the fields of a protobuf message from its bytes: two bytes can expand to a kilobyte of objects."""

from __future__ import annotations

from typing import Any

MAX_FIELDS = 16_000  # including those of nested messages; more than a batch of 100 videos with all labels has
MAX_OWN_FIELDS = 1_000  # of one message, not counting nested ones
MAX_DEPTH = 32
VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
SKIPPED = {FIXED64: 8, FIXED32: 4}


def has_many_fields(data: bytes, kind: Any) -> bool:
    """Return whether a message has more fields than the limits allow, reading no further than that. Malformed data
    count as far as they can be read; parsing them reports the fault.

    Args:
        kind: the message's descriptor.
    """
    return len(data) > MAX_OWN_FIELDS and _count(memoryview(data), kind, MAX_FIELDS, 0) > MAX_FIELDS


def _count(data: memoryview, kind: Any, limit: int, depth: int) -> int:
    fields = kind.fields_by_number
    count = own = at = 0
    end = len(data)
    while at < end and count <= limit:
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _varint(data, at)
        count += 1
        own += 1
        if own > MAX_OWN_FIELDS:
            return limit + 1
        wire = tag & 7
        if wire == VARINT:
            _, at = _varint(data, at)
        elif wire == BYTES:
            if at < end and data[at] < 0x80:
                size, at = data[at], at + 1
            else:
                size, at = _varint(data, at)
            field = fields.get(tag >> 3)
            if field is not None and field.message_type is not None and size and depth < MAX_DEPTH:
                count += _count(data[at : at + size], field.message_type, limit - count, depth + 1)
            elif field is not None and field.is_packed:
                count += size
            at += size
        elif wire in SKIPPED:
            at += SKIPPED[wire]
        elif wire not in (START_GROUP, END_GROUP):
            break
    return count


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a varint and the offset after it; 0 if the data end within it."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, len(data)
