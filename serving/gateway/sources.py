"""The media that a request names: taken out of it as they stand, so that they can be fetched and examined."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ONE = ("image", "clip", "first_frame", "last_frame", "video")
MANY = ("panels", "references")


@dataclass(frozen=True)
class Named:
    """A request whose media are replaced by placeholders.

    Attributes:
        data: the request. media: placeholder -> what stood there. fields: placeholder -> its field, e.g.
            ``references.0``.
    """

    data: dict[str, Any]
    media: dict[str, str]
    fields: dict[str, str]


def take_media(data: Mapping[str, Any]) -> Named:
    """Replace every medium (an id, an address, the bytes as a data: address) by ``m0``, ``m1``, ...

    What is no text stays, for the types to be checked.
    """
    media: dict[str, str] = {}
    fields: dict[str, str] = {}

    def put(value: object, field: str) -> object:
        if not isinstance(value, str) or not value:
            return value
        placeholder = f"m{len(media)}"
        media[placeholder], fields[placeholder] = value, field
        return placeholder

    task = data.get("task")
    if isinstance(task, Mapping):
        changed = dict(task)
        for name in ONE:
            if name in changed:
                changed[name] = put(changed[name], name)
        for name in MANY:
            if isinstance(changed.get(name), (list, tuple)):
                changed[name] = [put(item, f"{name}.{i}") for i, item in enumerate(changed[name])]
        task = changed
    out = {**data, "task": task}
    if "audio" in out:
        out["audio"] = put(out["audio"], "audio")
    return Named(out, media, fields)


def put_media(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The inverse: placeholders of a checked request (as `model_dump` gives it) replaced by names."""

    def swap(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [swap(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    task = {key: swap(value) if key in (*ONE, *MANY) else value for key, value in data["task"].items()}
    return {**data, "task": task, "audio": swap(data.get("audio"))}


def digest(source: str) -> str:
    """A medium in a fingerprint: short, and the same for the same bytes or address."""
    return hashlib.sha256(source.encode()).hexdigest()
