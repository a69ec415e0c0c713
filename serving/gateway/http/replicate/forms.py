"""The forms that an input can have, each with the task that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoetrope.model.request.tasks import PANELS, InvalidRequest, Violation
from zoetrope.serving.gateway.http.replicate.fields import (
    ALIASES,
    EditInput,
    ImageInput,
    ReferenceInput,
    TextInput,
    WanInput,
)

EMPTY: tuple[object, ...] = (None, "", [])  # values that give nothing


@dataclass(frozen=True)
class InputForm:
    """Fields that belong together.

    Attributes:
        tasks: that it can make.
        media: fields of which one tells that an input has this form, where a model takes several.
        task: makes a task of a checked input, and adds its names (the service's -> the client's) to those given.
    """

    fields: type[WanInput]
    tasks: tuple[str, ...]
    media: frozenset[str]
    task: Callable[[Any, dict[str, str]], dict[str, Any]]

    def has(self, given: Mapping[str, Any]) -> bool:
        """Tell whether an input, as it was given, has one of the media."""
        return any(ALIASES.get(name, name) in self.media for name, value in given.items() if value not in EMPTY)


def _words(found: WanInput) -> dict[str, Any]:
    return {"prompt": found.prompt, "negative_prompt": found.negative_prompt}


def _text_task(found: TextInput, names: dict[str, str]) -> dict[str, Any]:
    return {"kind": "text_to_video", **_words(found)}


def _image_task(found: ImageInput, names: dict[str, str]) -> dict[str, Any]:
    starts = [name for name in ("first_frame", "first_clip", "images") if getattr(found, name) is not None]
    if len(starts) != 1:
        batched = " and ".join(names.get(name, name) for name in starts)
        given = f"{batched} are given together" if starts else "is missing"
        field = starts[1] if starts else "first_frame"
        raise InvalidRequest(Violation(field, f"{given}: give one of first_frame, first_clip and images"))
    words = _words(found)
    if found.images is not None and found.last_frame is not None:
        raise InvalidRequest(Violation("last_frame", "cannot be combined with images"))
    if found.loop and found.first_frame is None:
        raise InvalidRequest(Violation("loop", f"cannot be combined with {starts[0]}: it needs a first_frame"))
    if found.images is not None:
        if len(found.images) not in (1, PANELS):
            description = f"has {len(found.images)} entries, give {PANELS} pictures or one sheet of them"
            raise InvalidRequest(Violation("images", description))
        return {"kind": "grid_to_video", **words, "panels": found.images}
    last = {} if found.last_frame is None else {"last_frame": found.last_frame}
    if found.first_clip is not None:
        return {"kind": "image_to_video", **words, "clip": found.first_clip, **last}
    if last:
        if found.loop:
            raise InvalidRequest(Violation("loop", "cannot be combined with last_frame"))
        return {"kind": "first_last_frame", **words, "first_frame": found.first_frame, **last}
    return {"kind": "image_to_video", **words, "image": found.first_frame, "loop": bool(found.loop)}


def _reference_task(found: ReferenceInput, names: dict[str, str]) -> dict[str, Any]:
    references = [*found.reference_images, *found.reference_videos]
    if not references:
        description = "is empty: give 1 to 5 pictures, or clips in reference_videos"
        raise InvalidRequest(Violation("reference_images", description))
    pictures = len(found.reference_images)
    for i in range(len(references)):
        video = f"reference_videos.{i - pictures}"
        names[f"references.{i}"] = f"reference_images.{i}" if i < pictures else video
    names["references"] = "reference_images" if pictures else "reference_videos"
    task = {"kind": "reference_to_video", **_words(found), "references": references}
    return task if found.first_frame is None else task | {"first_frame": found.first_frame}


def _edit_task(found: EditInput, names: dict[str, str]) -> dict[str, Any]:
    one = [] if found.reference_image is None else [found.reference_image]
    names["references"] = "reference_images"
    for i in range(len(found.reference_images)):
        names[f"references.{i + len(one)}"] = f"reference_images.{i}"
    if one:
        names["references.0"] = "reference_image"
    return {
        "kind": "edit_video",
        **_words(found),
        "video": found.video,
        "references": [*one, *found.reference_images],
        "keep_audio": found.audio_setting == "origin",
    }


TEXT = InputForm(TextInput, ("text_to_video",), frozenset(), _text_task)
IMAGE = InputForm(
    ImageInput,
    ("image_to_video", "first_last_frame", "grid_to_video"),
    frozenset({"first_frame", "last_frame", "first_clip", "images"}),
    _image_task,
)
REFERENCE = InputForm(
    ReferenceInput, ("reference_to_video",), frozenset({"reference_images", "reference_videos"}), _reference_task
)
EDIT = InputForm(EditInput, ("edit_video",), frozenset({"video"}), _edit_task)
# In this order: an edit can have references too, and a video of references a first frame.
ANY = (EDIT, REFERENCE, IMAGE, TEXT)
FIELDS = frozenset(name for form in ANY for name in form.fields.model_fields)
