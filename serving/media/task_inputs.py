"""A task's pictures and clips: examined before the task is accepted, decoded when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.media.resize import as_long_as, whole
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import (
    MAX_SOURCE_SECONDS,
    MEDIA_FIELDS,
    EditVideo,
    FirstLastFrame,
    GridToVideo,
    ImageToVideo,
    InvalidRequest,
    MediaInfo,
    ModelCard,
    ReferenceToVideo,
    Task,
    Violation,
    media_of,
)
from zoetrope.serving import media as plain_media
from zoetrope.serving.media import MediaError, probe_any
from zoetrope.serving.media.formats import PICTURE_TYPES

SOUND = "audio"  # the request field that names a sound
FindFile = Callable[[str], Path]  # a medium's name in the task -> a file to read


class Reader(Protocol):
    """Decodes files: the module `serving.media` in this process, or a `serving.media.sandbox.sandbox.Sandbox`."""

    def read_picture(self, path: Path) -> Picture: ...
    def read_clip(self, path: Path, *, fps: float | None, max_seconds: float) -> Clip: ...


READER: Any = plain_media  # a Reader, though mypy cannot check a module


def examine(task: Task, find: FindFile = Path, audio: str | None = None) -> dict[str, MediaInfo]:
    """Examine a task's media; returns what each one is, by the field that names it.

    Args:
        audio: a file whose sound will be added to the video; it is examined, too.

    Raises:
        InvalidRequest: lists every medium that is missing, broken, over a limit, or not what its field takes.
    """
    found: dict[str, MediaInfo] = {}
    bad: list[Violation] = []
    named = media_of(task)
    if audio is not None:
        named[SOUND] = audio
    for field, name in named.items():
        try:
            info = info_for_field(asdict(probe_any(find(name))), field)
        except MediaError as error:
            bad.append(Violation(field, str(error)))
            continue
        except InvalidRequest as error:
            bad += [Violation(v.field, f"{name} {v.description}") for v in error.violations]
            continue
        if info is not None:
            found[field] = info
    if bad:
        raise InvalidRequest(*bad)
    return found


def media_info(info: Mapping[str, Any]) -> MediaInfo:
    """Convert a `serving.media.ProbedMedia` dict to the form that `model.request.resolve` checks."""
    return MediaInfo(
        kind=info["kind"],
        width=info["width"],
        height=info["height"],
        frames=info["frames"],
        fps=float(info["fps"]),
        has_audio=info["has_audio"],
    )


def info_for_field(info: Mapping[str, Any], field: str) -> MediaInfo | None:
    """Interpret a file as its field does: an animated picture counts as its first frame in a field for pictures.

    Args:
        info: a `serving.media.ProbedMedia` or `serving.media.sound.SoundInfo` as a dict.

    Returns:
        None for a sound.

    Raises:
        InvalidRequest: a sound was given for a picture or clip, or a file without sound for a sound.
    """
    is_sound = "channels" in info
    if field == SOUND:
        if not (is_sound or info["has_audio"]):
            raise InvalidRequest(Violation(field, "has no decodable sound; must be a sound, or a clip with sound"))
        return None
    if is_sound:
        raise InvalidRequest(Violation(field, "is a sound; must be a picture or a clip"))
    wanted = MEDIA_FIELDS[field.partition(".")[0]].takes.kind
    first_frame = wanted == "image" and info["kind"] == "clip" and info["container"] in PICTURE_TYPES
    found = media_info(info)
    return replace(found, kind="image", frames=1, fps=0.0) if first_frame else found


def load(
    spec: VideoSpec,
    card: ModelCard,
    media: Mapping[str, MediaInfo],
    find: FindFile = Path,
    reader: Reader = READER,
) -> Inputs:
    """Decode the media of a task, clips at the frame rate of the result.

    Args:
        media: the result of `examine`.

    Raises:
        InvalidRequest: a medium turns out to be broken.
    """
    task = spec.task
    field = ""

    def picture(at: str, name: str) -> Picture:
        nonlocal field
        field = at
        return reader.read_picture(find(name))

    def clip(at: str, name: str) -> Clip:
        nonlocal field
        field = at
        longest = max(MAX_SOURCE_SECONDS, media[at].seconds) + 0.5  # `resolve` has already checked the limit
        return reader.read_clip(find(name), fps=spec.fps, max_seconds=longest)

    def references(names: tuple[str, ...]) -> tuple[Picture | Clip, ...]:
        nonlocal field
        items: list[Picture | Clip] = []
        for i, name in enumerate(names):
            field = f"references.{i}"
            is_clip = media[field].kind == "clip"
            items.append(clip(field, name) if is_clip else picture(field, name))
        return tuple(items)

    try:
        match task:
            case ImageToVideo(image=str(name)):
                first = picture("image", name)
                return Inputs(first=first, last=first if task.loop else None)
            case ImageToVideo(clip=str(name)):
                before = _last_frames(clip("clip", name), card)
                last = None if task.last_frame is None else picture("last_frame", task.last_frame)
                return Inputs(before=before, last=last)
            case FirstLastFrame():
                return Inputs(
                    first=picture("first_frame", task.first_frame), last=picture("last_frame", task.last_frame)
                )
            case GridToVideo():
                return Inputs(panels=tuple(picture(f"panels.{i}", name) for i, name in enumerate(task.panels)))
            case ReferenceToVideo():
                first_frame = task.first_frame
                return Inputs(
                    first=picture("first_frame", first_frame) if first_frame is not None else None,
                    references=references(task.references),
                )
            case EditVideo():
                source = clip("video", task.video)
                whole_source = Clip(as_long_as(source.frames, spec.model_frames), source.fps)
                return Inputs(video=whole_source, references=references(task.references))
    except MediaError as error:
        raise InvalidRequest(Violation(field, str(error))) from error
    return Inputs()


def _last_frames(clip: Clip, card: ModelCard) -> Clip:
    """Return the frames that a continuation starts with: as many as segments overlap, at least one."""
    wanted = min(max(1, card.overlap_frames), len(clip.frames))
    return Clip(clip.frames[-whole(wanted, card.temporal) :], clip.fps)
