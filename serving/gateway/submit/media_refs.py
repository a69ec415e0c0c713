"""The media that a request names: taken out of it as they stand, so that they can be fetched and examined."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoetrope.model.request.tasks import MEDIA_FIELDS


@dataclass(frozen=True)
class NamedMedia:
    """A request whose media are replaced by placeholders.

    Attributes:
        data: the request. media: placeholder -> what stood there. fields: placeholder -> its field, e.g.
            ``references.0``.
    """

    data: dict[str, Any]
    media: dict[str, str]
    fields: dict[str, str]


def take_media(data: Mapping[str, Any]) -> NamedMedia:
    """Replace every medium (an id, a URL, the bytes as a data: URL) by ``m0``, ``m1``, ...

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
        for name, known in MEDIA_FIELDS.items():
            if not known.many and name in changed:
                changed[name] = put(changed[name], name)
            elif known.many and isinstance(changed.get(name), (list, tuple)):
                changed[name] = [put(item, f"{name}.{i}") for i, item in enumerate(changed[name])]
        task = changed
    out = {**data, "task": task}
    if "audio" in out:
        out["audio"] = put(out["audio"], "audio")
    return NamedMedia(out, media, fields)


def put_media(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Replace the placeholders of a checked request (as `model_dump` gives it) by names."""

    def swap(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [swap(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    task = {key: swap(value) if key in MEDIA_FIELDS else value for key, value in data["task"].items()}
    return {**data, "task": task, "audio": swap(data.get("audio"))}


def replace_media(data: Mapping[str, Any], replace: Callable[[str], str]) -> dict[str, Any]:
    """Replace every medium of a request; one without a task stays as it is, for that to be refused."""
    if not isinstance(data.get("task"), Mapping):
        return dict(data)
    named = take_media(data)
    return put_media(named.data, {placeholder: replace(source) for placeholder, source in named.media.items()})


def digest(source: str) -> str:
    """Name a medium in a fingerprint: short, and the same for the same bytes or URL."""
    return hashlib.sha256(source.encode()).hexdigest()
