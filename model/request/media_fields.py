"""Declare which fields of a task name pictures or clips, and what these must be. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel


@dataclass(frozen=True)
class Takes:
    """What a medium must be: annotates a field's type. ``kind`` None: a picture or a clip.

    ``min_seconds`` and ``max_seconds`` apply to clips.
    """

    kind: Literal["image", "clip"] | None = None
    min_seconds: float = 0.0
    max_seconds: float = float("inf")


@dataclass(frozen=True)
class MediaField:
    """A field of that name, in any task; ``many``: it holds a list."""

    name: str
    takes: Takes
    many: bool


def media_fields(*tasks: type[BaseModel]) -> dict[str, MediaField]:
    """Find the fields that name media in task classes, by their names.

    Raises:
        ValueError: two tasks have fields of one name that take different things.
    """
    found: dict[str, MediaField] = {}
    for task in tasks:
        for name, field in task.model_fields.items():
            marks = {mark for mark in (*field.metadata, *_marks(field.annotation)) if isinstance(mark, Takes)}
            if not marks:
                continue
            declared = MediaField(name, marks.pop(), get_origin(field.annotation) is tuple)
            if marks or found.setdefault(name, declared) != declared:
                raise ValueError(f"{task.__name__}.{name} takes something other than another task's {name}")
    return found


def _marks(annotation: Any) -> Iterator[Any]:
    """Yield all metadata within a type."""
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        yield from _marks(inner)
