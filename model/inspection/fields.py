"""Classes whose fields come from a file and are checked against their types and limits; without pydantic.

The methods have pydantic's names, as other configurations are its models. The network needs these on machines that have
nothing but torch.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from zoetrope.model.runtime.errors import Picklable

WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


class ConfigFieldError(Picklable, ValueError):
    """A field is not what it must be. ``field`` is its path, such as ``moe.top_k``, or "" for a rule about several."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


@dataclass(frozen=True)
class Limits:
    """What a number must keep to: at least ``ge``, more than ``gt``, at most ``le``, less than ``lt``. NaN keeps to
    nothing."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def problem(self, value: float) -> str | None:
        """Return what a number must be, if it is not; None if it is."""
        for limit, words, holds in (
            (self.ge, "at least", operator.ge),
            (self.gt, "above", operator.gt),
            (self.le, "at most", operator.le),
            (self.lt, "below", operator.lt),
        ):
            if limit is not None and not holds(value, limit):
                return f"must be {words} {limit:g}, is {value!r}"
        return None


def limited(default: Any = dataclasses.MISSING, **limits: float) -> Any:
    """Return a dataclass field whose number has `Limits`."""
    return dataclasses.field(default=default, metadata={"limits": Limits(**limits)})


class Fields:
    """A frozen dataclass of keyword arguments that checks them, converts lists to tuples, and then calls `check`."""

    ignores_unknown: ClassVar[bool] = False  # keys of a file that are no fields

    def __post_init__(self) -> None:
        wanted = get_type_hints(type(self))
        for field in _fields(type(self)):
            value = _parsed(getattr(self, field.name), wanted[field.name], field.name)
            limits = field.metadata.get("limits")
            problem = limits.problem(value) if limits is not None and value is not None else None
            if problem is not None:
                raise ConfigFieldError(field.name, problem)
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raise ValueError if the fields do not go together."""

    @classmethod
    def named(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values of a file by the names of the fields, where the file has names of its own."""
        return values

    @classmethod
    def model_fields(cls) -> tuple[str, ...]:
        """List the names of the fields."""
        return tuple(field.name for field in _fields(cls))

    @classmethod
    def model_validate(cls, values: Mapping[str, Any]) -> Self:
        """Make an object of the values in a file.

        Raises:
            ConfigFieldError: one is missing, unknown, or not what it must be.
        """
        values = cls.named(values)
        known = {field.name: field for field in _fields(cls)}
        for name, field in known.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise ConfigFieldError(name, "must be set")
        unknown = next((name for name in values if name not in known), None)
        if unknown is not None and not cls.ignores_unknown:
            raise ConfigFieldError(unknown, "is not a known field")
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except ConfigFieldError:
            raise
        except ValueError as error:
            raise ConfigFieldError("", str(error)) from None

    def model_dump(self, mode: Literal["json", "python"] = "python") -> dict[str, Any]:
        """Return plain values; with ``mode="json"``, lists instead of tuples."""
        return {name: _plain(getattr(self, name), mode) for name in self.model_fields()}

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return a copy with other values, checked."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields()}, **update})


def _fields(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _plain(value: Any, mode: Literal["json", "python"]) -> Any:
    if isinstance(value, Fields):
        return value.model_dump(mode)
    if isinstance(value, tuple):
        items = (_plain(item, mode) for item in value)
        return list(items) if mode == "json" else tuple(items)
    return value


def _parsed(value: Any, wanted: Any, name: str) -> Any:
    """Return a value as its type; raise ConfigFieldError if it is none of that type."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (UnionType, Union):
        if value is None and NoneType in arguments:
            return None
        (wanted,) = (argument for argument in arguments if argument is not NoneType)
        return _parsed(value, wanted, name)
    if origin is Literal:
        if value not in arguments:
            raise ConfigFieldError(name, f"must be {' or '.join(map(repr, arguments))}, is {value!r}")
        return value
    if origin is tuple:
        return _items(value, arguments, name)
    if isinstance(wanted, type) and issubclass(wanted, Fields):
        return _nested(value, wanted, name)
    return _number(value, wanted, name)


def _items(value: Any, arguments: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigFieldError(name, f"must be a list, is {value!r}")
    if arguments[1:] == (Ellipsis,):
        arguments = arguments[:1] * len(value)
    if len(value) != len(arguments):
        raise ConfigFieldError(name, f"must have {len(arguments)} items, has {len(value)}")
    pairs = zip(value, arguments, strict=True)
    return tuple(_parsed(item, wanted, f"{name}.{i}") for i, (item, wanted) in enumerate(pairs))


def _nested(value: Any, wanted: type[Fields], name: str) -> Fields:
    if isinstance(value, wanted):
        return value
    if not isinstance(value, Mapping):
        raise ConfigFieldError(name, f"must be an object, is {value!r}")
    try:
        return wanted.model_validate(value)
    except ConfigFieldError as error:
        raise ConfigFieldError(f"{name}.{error.field}" if error.field else name, error.problem) from None


def _number(value: Any, wanted: type, name: str) -> Any:
    """Return a string, a flag or a number; whole numbers may be written as 3.0, and no number is infinite."""
    good = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max:
            raise ConfigFieldError(name, f"must be a finite number, is {value!r}")
        return float(value)
    if not good:
        raise ConfigFieldError(name, f"must be {WORDS[wanted]}, is {value!r}")
    if wanted is float and not math.isfinite(value):
        raise ConfigFieldError(name, f"must be a finite number, is {value!r}")
    return value
