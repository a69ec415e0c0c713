"""Translate a request to one of fal's Wan apps into the fields of a submission.

Apps are known by patterns, whatever their version: an app stands for the tasks that its name speaks of, and the served
model does them. What an app leaves out is the served model's to choose, not what fal's own app would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.sizes import SIZES, size_name
from zoetrope.model.request.tasks import InvalidRequest, Violation
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.json_objects import parse
from zoetrope.serving.gateway.http.fal.fields import PASSED_ON, FalInput, sort_fields
from zoetrope.serving.gateway.http.fal.views import OWN

OWNERS = ("fal-ai", "wan", OWN)
VERSION = r"(?:fal-ai/wan(?:-pro|-25-preview|/v[0-9]\.[0-9](?:-[a-z0-9]{1,8})?)|wan/v[0-9]\.[0-9])"
VARIANT = r"(?:/(?:lora|turbo|distill|fast-wan|flash))?"
NOT_EXPANDED = "enable_prompt_expansion changes nothing: this service expands no prompts"
TASK_FIELDS = (
    *("prompt", "negative_prompt", "image", "clip", "loop", "first_frame", "last_frame", "panels", "references"),
    *("video", "keep_audio"),
)
# Fields that not every app takes, and their values that say nothing.
MEDIA = ("image_url", "end_image_url", "video_url", "audio_url", "reference_image_urls", "reference_video_urls")
SPECIAL = (*MEDIA, "loop", "audio_setting")
NOTHING: tuple[object, ...] = (None, [], False, "auto")
Names = dict[str, str]


@dataclass(frozen=True)
class App:
    """Apps of one kind.

    Attributes:
        pattern: of their ids, in lower case. example: one of them.
        tasks: that they may stand for.
        takes: those of `SPECIAL` that they take.
        task: makes the task; adds to the names of its fields.
    """

    pattern: re.Pattern[str]
    example: str
    tasks: Sequence[str]
    takes: Sequence[str]
    task: Callable[[FalInput, Names], dict[str, Any]]


@dataclass(frozen=True)
class Translated:
    """A request in the service's terms. ``names``: the service's fields -> the client's, where they differ; a name
    covers what is below it, too, and one that ends with a dot stands for one entry of a list."""

    data: dict[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    expand: bool = False
    warnings: tuple[str, ...] = ()

    def client_name(self, ours: str) -> str:
        """Return a field as the client wrote it."""
        return client_name(self.names, ours)


def client_name(names: Mapping[str, str], ours: str) -> str:
    """Return a field (``references.1``) as the client wrote it."""
    stem, rest = ours, ""
    while stem not in names:
        stem, dot, last = stem.rpartition(".")
        if not dot:
            return ours
        rest = f".{last}{rest}"
    name = names[stem]
    return name.removesuffix(".") if name.endswith(".") else name + rest


def translate(app: str, given: Mapping[str, Any], models: ServedModels, expands: bool) -> Translated:
    """Translate a request.

    Args:
        app: the id in the URL.
        expands: the service has a hook that expands prompts.

    Raises:
        ApiError: NOT_FOUND: there is no such app.
        InvalidRequest: fields as the client wrote them.
    """
    found = find_app(app, models)
    named = {"model": app.removeprefix(f"{OWN}/")} if found is OWN_APP else {}  # others go by their task
    if found is OWN_APP and "task" in given:  # the service's own fields
        return Translated({**named, **given}, {f: f"task.{f}" for f in TASK_FIELDS})
    fields = sort_fields(given)
    names, bad = dict(fields.names), fields.bad
    try:
        wanted = parse(FalInput, fields.plain)
        bad += _misplaced(wanted, found, app, names)
        task = found.task(wanted, names)
    except InvalidRequest as error:
        bad += (Violation(client_name(names, v.field), v.description) for v in error.violations)
    if bad:
        raise InvalidRequest(*bad, named=True)
    values = wanted.model_dump(exclude_none=True)
    if task["kind"] == "edit_video" and not wanted.duration:
        values.pop("duration", None)  # 0, the apps' default: all of the clip
    for name in ("resolution", "aspect_ratio"):
        if str(values.get(name)).lower() == "auto":
            del values[name]
    data: dict[str, Any] = {"task": task, **named}
    data |= {ours: values[theirs] for theirs, ours in PASSED_ON.items() if theirs in values}
    if wanted.loras:
        data["loras"] = [lora.fields() for lora in wanted.loras]
    for theirs, ours in PASSED_ON.items():
        names.setdefault(ours, names.get(theirs, theirs))
    names["task"] = "body"  # it is the request as a whole that makes it
    wished = wanted.enable_prompt_expansion
    warnings = (*fields.warnings, NOT_EXPANDED) if wished and not expands else fields.warnings
    return Translated(data, names, wished and expands, warnings)


def find_app(app: str, models: ServedModels) -> App:
    """Find an app by its id.

    Raises:
        ApiError: NOT_FOUND.
    """
    own = [f"{OWN}/{name}" for name in models.names]
    if app in own:
        return OWN_APP
    offered = [one for one in APPS if models.of_task(one.tasks) is not None]
    for one in offered:
        if one.pattern.fullmatch(app.lower()):
            return one
    known = ", ".join([*own, *(one.example for one in offered)])
    raise ApiError("NOT_FOUND", "UNKNOWN_APP", f"Application {short(app)} is not served here; served are: {known}")


def _misplaced(wanted: FalInput, app: App, app_id: str, names: Names) -> list[Violation]:
    """Report fields that the app does not take, media that are no URLs, and a resolution that nobody knows."""
    bad = []
    for name in SPECIAL:
        value = getattr(wanted, name)
        if value in NOTHING:
            continue
        if name not in app.takes:
            takes = ", ".join(app.takes)
            bad.append(Violation(client_name(names, name), f"is not taken by {short(app_id)}, which takes {takes}"))
        elif name in MEDIA:
            urls = {f"{name}.{i}": url for i, url in enumerate(value)} if isinstance(value, list) else {name: value}
            for path, url in urls.items():
                if not url.startswith(("http://", "https://", "data:")):
                    description = f"{short(url)} must be an http, https or data URL"
                    bad.append(Violation(client_name(names, path), description))
    size = wanted.resolution
    if size is not None and size_name(size) not in (*SIZES, "auto"):
        bad.append(Violation("resolution", f"{short(size)} is not one of {', '.join(SIZES)}, auto"))
    return bad


def _words(wanted: FalInput) -> dict[str, Any]:
    return {"prompt": wanted.prompt, "negative_prompt": wanted.negative_prompt}


def _text_task(wanted: FalInput, names: Names) -> dict[str, Any]:
    if not wanted.prompt:
        raise InvalidRequest(Violation("prompt", "is missing"))
    return {"kind": "text_to_video", **_words(wanted)}


def _image_task(wanted: FalInput, names: Names) -> dict[str, Any]:
    if (wanted.image_url is None) == (wanted.video_url is None):
        raise InvalidRequest(Violation("image_url", "give a first frame, or in video_url a clip to go on from"))
    if wanted.image_url is None:
        if wanted.loop:
            raise InvalidRequest(Violation("loop", "needs a first frame in image_url"))
        media = {"clip": "video_url"}
        if wanted.end_image_url is not None:
            media["last_frame"] = "end_image_url"
        return {"kind": "image_to_video", **_words(wanted), **_named(names, of=wanted, **media)}
    if wanted.end_image_url is None:
        first = _named(names, image="image_url", of=wanted)
        return {"kind": "image_to_video", **_words(wanted), **first, "loop": wanted.loop}
    if wanted.loop:
        raise InvalidRequest(Violation("loop", "cannot be combined with end_image_url"))
    return _frames_task(wanted, names)


def _frames_task(wanted: FalInput, names: Names) -> dict[str, Any]:
    for name in ("image_url", "end_image_url"):
        if getattr(wanted, name) is None:
            raise InvalidRequest(Violation("start_image_url" if name == "image_url" else name, "is missing"))
    frames = _named(names, first_frame="image_url", last_frame="end_image_url", of=wanted)
    return {"kind": "first_last_frame", **_words(wanted), **frames}


def _reference_task(wanted: FalInput, names: Names) -> dict[str, Any]:
    references = _references(wanted, names)
    if not references:
        raise InvalidRequest(Violation("reference_image_urls", "is empty, and so is reference_video_urls"))
    first = {} if wanted.image_url is None else _named(names, first_frame="image_url", of=wanted)
    return {"kind": "reference_to_video", **_words(wanted), "references": references, **first}


def _edit_task(wanted: FalInput, names: Names) -> dict[str, Any]:
    if wanted.video_url is None:
        raise InvalidRequest(Violation("video_url", "is missing"))
    task = {"kind": "edit_video", **_words(wanted), **_named(names, video="video_url", of=wanted)}
    return task | {"references": _references(wanted, names), "keep_audio": wanted.audio_setting == "origin"}


def _vace_task(wanted: FalInput, names: Names) -> dict[str, Any]:
    """A VACE app without a control video: references, frames, or words alone."""
    if wanted.reference_image_urls:
        if wanted.end_image_url is not None:
            raise InvalidRequest(Violation("end_image_url", "cannot be combined with references"))
        return _reference_task(wanted, names)
    if wanted.image_url is None and wanted.end_image_url is None:
        return _text_task(wanted, names)
    return _image_task(wanted, names)


def _any_task(wanted: FalInput, names: Names) -> dict[str, Any]:
    """The served model by its own name: what is given decides. A clip is to be edited."""
    if wanted.video_url is not None:
        return _edit_task(wanted, names)
    if wanted.reference_video_urls:
        return _reference_task(wanted, names)
    return _vace_task(wanted, names)


def _named(names: Names, *, of: FalInput, **fields: str) -> dict[str, Any]:
    """Return media under the service's names, and note how the client wrote these."""
    for ours, theirs in fields.items():
        names[ours] = names.get(theirs, theirs)
    return {ours: getattr(of, theirs) for ours, theirs in fields.items()}


def _references(wanted: FalInput, names: Names) -> list[str]:
    count = 0
    for name in ("reference_image_urls", "reference_video_urls"):
        for i in range(len(getattr(wanted, name))):
            names[f"references.{count}"] = client_name(names, f"{name}.{i}")
            count += 1
    names["references"] = client_name(names, "reference_image_urls")
    return [*wanted.reference_image_urls, *wanted.reference_video_urls]


STARTS = ("image_to_video", "first_last_frame")
APPS = (
    App(
        re.compile(rf"{VERSION}/text-to-video{VARIANT}|fal-ai/wan-t2v(?:-lora)?"),
        "fal-ai/wan/v2.7/text-to-video",
        ("text_to_video",),
        ("audio_url",),
        _text_task,
    ),
    App(
        re.compile(rf"{VERSION}/image-to-video{VARIANT}|fal-ai/wan-i2v(?:-lora)?"),
        "fal-ai/wan/v2.7/image-to-video",
        STARTS,
        ("image_url", "end_image_url", "video_url", "audio_url", "loop"),
        _image_task,
    ),
    App(
        re.compile(r"fal-ai/wan-flf2v"),
        "fal-ai/wan-flf2v",
        ("first_last_frame",),
        ("image_url", "end_image_url"),
        _frames_task,
    ),
    App(
        re.compile(rf"{VERSION}/reference-to-video{VARIANT}"),
        "fal-ai/wan/v2.7/reference-to-video",
        ("reference_to_video",),
        ("reference_image_urls", "reference_video_urls", "image_url", "audio_url"),
        _reference_task,
    ),
    App(
        re.compile(rf"{VERSION}/edit-video|fal-ai/wan-vace-apps/video-edit"),
        "fal-ai/wan/v2.7/edit-video",
        ("edit_video",),
        ("video_url", "reference_image_urls", "audio_setting"),
        _edit_task,
    ),
    App(
        re.compile(r"fal-ai/wan-vace(?:-14b|-1-3b)?"),
        "fal-ai/wan-vace-14b",
        ("reference_to_video", *STARTS),
        ("reference_image_urls", "image_url", "end_image_url"),
        _vace_task,
    ),
)
OWN_APP = App(re.compile(rf"{OWN}/.+"), f"{OWN}/nano", TASK_KINDS, SPECIAL, _any_task)
