"""Say in our own words what a value must be that pydantic refuses. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KINDS = {
    "string": "a string",
    "bytes": "bytes",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
    "model": "an object",
    "dict_attributes": "an object",
}
BOUNDS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "int_from_float": "must be an integer",
}
LENGTHS = {
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items, has {actual_length}",
    "too_long": "must have at most {max_length} items, has {actual_length}",
}


def describe(error: ErrorDetails | Mapping[str, Any]) -> str:
    """Return what must hold, with the value where it is short enough to help: ``5000 must be at most 1000``."""
    kind, given, context = str(error["type"]), error["input"], error.get("ctx") or {}
    if kind == "missing":
        return "must be set"
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind == "value_error":  # our own rules quote their values; of several fields, pydantic's input is all of them
        return str(error["msg"]).removeprefix("Value error, ")
    if kind in BOUNDS:
        return f"{short(given)} {BOUNDS[kind].format(**context)}"
    if kind in LENGTHS:
        return LENGTHS[kind].format(**context)
    if (wanted := KINDS.get(kind.removesuffix("_type").removesuffix("_parsing"))) is not None:
        return f"{short(given)} must be {wanted}"
    message = str(error["msg"])
    return f"{message[:1].lower()}{message[1:]}, got {short(given)}"


def short(value: object) -> str:
    """Quote a value for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
