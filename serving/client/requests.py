"""Encodes the client's requests as messages and finds the files to upload for them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import VideoRequest, Violation
from zoetrope.serving.api.formats import MIME_TYPES, enum_name
from zoetrope.serving.api.names import MEDIA, OPERATIONS, VIDEOS
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from zoetrope.serving.client.types import MediaFile, Request, Webhook, invalid

# Fields that take a word: the message's field and the values of its enum.
WORDS: dict[str, tuple[str, dict[str, int]]] = {
    "container": ("format", {word: video_pb2.VideoFormat.Value(enum_name(word)) for word in MIME_TYPES}),
    "fit": ("fit", {"cover": video_pb2.FIT_COVER, "contain": video_pb2.FIT_CONTAIN}),
    "quality": (
        "quality",
        {word: video_pb2.Quality.Value(f"QUALITY_{word.upper()}") for word in ("exact", "balanced", "fast")},
    ),
}
PROMPTS = ("prompt", "negative_prompt")
INLINE_BYTES = 512 << 10  # at most this travels in the request itself: nine such panels stay well below its limit
URLS = ("http://", "https://", "data:")


@dataclass(frozen=True)
class Upload:
    """A file to upload before the request is sent; its name then goes into ``media``."""

    field: str
    source: Path | bytes
    media: media_pb2.Media


@dataclass(frozen=True)
class Draft:
    """A request whose files are not uploaded yet."""

    message: video_pb2.CreateVideoRequest
    uploads: list[Upload] = field(default_factory=list)


def draft(request: Request | None, fields: Mapping[str, Any]) -> Draft:
    """Encode a request to create a job. All limits but those of the message are left to the service.

    Args:
        request: a request, a task, or fields.
        fields: more of them, which win.

    Raises:
        ClientError: INVALID_ARGUMENT, a name is not known or the message cannot hold a value.
    """
    made, bad = Draft(video_pb2.CreateVideoRequest()), []
    given = {name: value for name, value in {**_fields(request), **fields}.items() if value is not None}
    task = given.pop("task", None)
    prompts = {name: given.pop(name) for name in PROMPTS if name in given}
    if task is not None or prompts:
        parts = {} if task is None else _plain(task)
        bad += _put_task(made, {**prompts, **{name: value for name, value in parts.items() if value is not None}})
    for name, value in given.items():
        bad += _put_option(made, name, value)
    if bad:
        raise invalid(*bad)
    made.message.request_id = made.message.request_id or uuid4().hex
    return made


def extension(name: str, prompt: str, fields: Mapping[str, Any]) -> video_pb2.ExtendVideoRequest:
    """Encode a request to continue a video.

    Raises:
        ClientError: INVALID_ARGUMENT, as for `draft`.
    """
    message, bad = video_pb2.ExtendVideoRequest(name=name), []
    for key, value in {"prompt": prompt, **fields}.items():
        if key == "name" or key not in message.DESCRIPTOR.fields_by_name:
            bad.append(Violation(key, "is not a known field"))
        elif value is not None:
            bad += _set(message, key, value)
    if bad:
        raise invalid(*bad)
    message.request_id = message.request_id or uuid4().hex
    return message


def changes(
    name: str, labels: Mapping[str, str] | None, priority: int | None, expire_time: float | datetime | None
) -> video_pb2.UpdateVideoRequest:
    """Encode a request to change a job; what is None stays as it is.

    Raises:
        ClientError: INVALID_ARGUMENT, as for `draft`.
    """
    message, bad = video_pb2.UpdateVideoRequest(name=name), []
    for key, value in (("labels", labels), ("priority", priority), ("expire_time", expire_time)):
        if value is not None:
            message.update_mask.paths.append(key)
            bad += _set(message.changes, key, value)
    if bad:
        raise invalid(*bad)
    return message


def _fields(request: Request | None) -> dict[str, Any]:
    if request is None:
        return {}
    if isinstance(request, BaseModel) and not isinstance(request, VideoRequest):
        return {"task": request}
    return _plain(request)


def _plain(value: object) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return dict(value)
    raise invalid(Violation("task", f"{short(value)} must be a task or its fields"))


def _put_task(made: Draft, parts: dict[str, Any]) -> list[Violation]:
    kind = parts.pop("kind", "text_to_video")
    if kind not in TASK_KINDS:
        return [Violation("task", f"{short(kind)} is not one of {', '.join(TASK_KINDS)}")]
    message = getattr(made.message, kind)
    message.SetInParent()
    bad = []
    for name, value in parts.items():
        known = message.DESCRIPTOR.fields_by_name.get(name)
        if known is None:
            bad.append(Violation(name, f"is not a known field of {kind}"))
        elif known.message_type is None:
            bad += _set(message, name, value)
        elif not known.is_repeated:
            bad += _put_media(made, getattr(message, name), value, name)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                bad += _put_media(made, getattr(message, name).add(), item, f"{name}.{i}")
        else:
            bad.append(Violation(name, f"{short(value)} must be a list"))
    return bad


def _put_option(made: Draft, name: str, value: Any) -> list[Violation]:
    message = made.message
    if name in WORDS:
        field, values = WORDS[name]
        if value not in tuple(values):
            return [Violation(field, f"{short(value)} is not one of {', '.join(values)}")]
        setattr(message, field, values[value])
        return []
    if name == "audio":
        return _put_media(made, message.audio, value, name)
    if name == "loras":
        return _put_loras(made, value)
    if name == "webhook":
        hook = Webhook(value) if isinstance(value, str) else value
        if not isinstance(hook, Webhook):
            return [Violation(name, f"{short(value)} must be a URL or a Webhook")]
        return [*_set(message.webhook, "url", hook.url), *_set(message.webhook, "events", hook.events)]
    if name in TASK_KINDS or name == "format" or name not in message.DESCRIPTOR.fields_by_name:
        return [Violation(name, "is not a known field")]
    return _set(message, name, value)


def _put_loras(made: Draft, value: Any) -> list[Violation]:
    if not isinstance(value, (list, tuple)):
        return [Violation("loras", f"{short(value)} must be a list")]
    bad = []
    for number, item in enumerate(value):
        fields = {"name": item} if isinstance(item, str) else _plain(item) if _has_fields(item) else None
        if fields is None:
            bad.append(Violation(f"loras.{number}", f"{short(item)} must be a name or an adapter's fields"))
            continue
        message = made.message.loras.add()
        for name, part in fields.items():
            if name not in message.DESCRIPTOR.fields_by_name:
                bad.append(Violation(f"loras.{number}.{name}", "is not a known field"))
            elif part is not None:
                bad += [Violation(f"loras.{number}.{v.field}", v.description) for v in _set(message, name, part)]
    return bad


def _has_fields(value: object) -> bool:
    return isinstance(value, (BaseModel, Mapping))


def _put_media(made: Draft, media: media_pb2.Media, source: Any, name: str) -> list[Violation]:
    match source:
        case MediaFile():
            media.name = source.name
        case str() if source.startswith(MEDIA):
            media.name = source
        case str() if source.startswith((OPERATIONS, VIDEOS)):
            media.video = source
        case str() if source.startswith(URLS):
            media.uri = source
        case bytes() if source and len(source) <= INLINE_BYTES:
            media.data = source
        case bytes() | Path() if source:
            made.uploads.append(Upload(name, source, media))
        case str() if source:
            made.uploads.append(Upload(name, Path(source), media))
        case _:
            return [Violation(name, f"{short(source)} must be a file, bytes, a name or a URL")]
    return []


def _set(message: Any, name: str, value: Any) -> list[Violation]:
    try:
        kind = message.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, datetime):
            getattr(message, name).FromDatetime(value)
        elif isinstance(value, timedelta):
            getattr(message, name).FromTimedelta(value)
        elif kind.message_type is not None and kind.message_type.name in ("Timestamp", "Duration"):
            getattr(message, name).FromMicroseconds(round(value * 1e6))
        elif isinstance(value, Mapping):
            getattr(message, name).update(value)
        elif kind.is_repeated:
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    except UnicodeEncodeError:
        return [Violation(name, "holds bytes that are not UTF-8")]
    except (TypeError, ValueError, OverflowError, AttributeError):  # of another type, or beyond 32 or 64 bits
        return [Violation(name, f"{str(value)[:80]!r} is not a valid value")]
    return []
