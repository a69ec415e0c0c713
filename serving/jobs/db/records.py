"""Data classes as rows of tables: a column for each field, under its name.

Text, numbers and what has no type are stored as they are, enumerations as text, truth values as 0 and 1, and
everything else (dictionaries, tuples, data classes) as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zoetrope.serving.jobs.db.database import Row

T = TypeVar("T")
Decoder = Callable[[Any], Any]
_DECODERS: dict[type, dict[str, Decoder | None]] = {}  # by class and column; made at the first use


def columns(kind: type) -> tuple[str, ...]:
    """Return the names of a class's columns."""
    return tuple(field.name for field in fields(kind))


def insert(table: str, names: Sequence[str]) -> str:
    """Return the statement that inserts a row, with a placeholder for each column."""
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def to_column(value: Any) -> Any:
    """Encode the value of a field.

    Raises:
        TypeError: it is not JSON.
    """
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value)
    return json.dumps(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else value


def to_values(record: Any) -> dict[str, Any]:
    """Encode a data class: its columns with their values. Raises TypeError as `to_column`."""
    return {name: to_column(getattr(record, name)) for name in columns(type(record))}


def from_row(kind: type[T], row: Row) -> T:
    """Decode a row that has all of a class's columns (and perhaps others)."""
    if kind not in _DECODERS:
        hints = get_type_hints(kind)
        _DECODERS[kind] = {name: _column_decoder(hints[name]) for name in columns(kind)}
    values = {}
    for name, decode in _DECODERS[kind].items():
        value = row[name]
        values[name] = value if value is None or decode is None else decode(value)
    return kind(**values)


def _column_decoder(hint: Any) -> Decoder | None:
    """How to decode a value that is not NULL; None: it is as it should be."""
    hint = _without_none(hint)
    if hint in (str, int, float) or get_origin(hint) is Literal:
        return None
    if isinstance(hint, type) and (hint is bool or issubclass(hint, Enum)):
        return hint
    inner = _json_decoder(hint)
    return json.loads if inner is None else lambda text: inner(json.loads(text))


def _json_decoder(hint: Any) -> Decoder | None:
    """How to make a field of a JSON value; None: it is as it should be."""
    hint = _without_none(hint)
    if get_origin(hint) is tuple:
        return tuple
    if is_dataclass(hint) and isinstance(hint, type):
        hints, names = get_type_hints(hint), columns(hint)
        decoders = {name: decode for name in names if (decode := _json_decoder(hints[name])) is not None}

        def decode_record(values: dict[str, Any]) -> Any:
            known = {name: decoders[name](v) for name, v in values.items() if name in decoders and v is not None}
            return hint(**(values | known))

        return decode_record
    return None


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, UnionType):
        return hint
    (known,) = (part for part in get_args(hint) if part is not NoneType)
    return known
