"""A task's pictures and clips: examined before the task is accepted, decoded when it is worked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from model.fit import as_long_as, whole
from model.inputs import Clip, Inputs, Picture
from model.resolve import PICTURES
from model.tasks import (
    MAX_SOURCE_SECONDS,
    EditVideo,
    FirstLastFrame,
    GridToVideo,
    ImageToVideo,
    InvalidRequest,
    MediaInfo,
    ModelCard,
    ReferenceToVideo,
    Task,
    VideoSpec,
    Violation,
    media_of,
)
from serving import media as plain_media
from serving.media import MediaError, probe_any
from serving.media.formats import PICTURE_TYPES

SOUND = "audio"  # the field of a request that names a sound
FindFile = Callable[[str], Path]  # a medium as the task names it -> a file to read


class Reader(Protocol):
    """Decodes files: `serving.media` in this process, or `serving.media.sandbox` in one that can do no harm."""

    def read_picture(self, path: Path) -> Picture: ...
    def read_clip(self, path: Path, *, fps: float | None, max_seconds: float) -> Clip: ...


READER: Any = plain_media  # a module is a Reader too, which mypy does not see


def examine(task: Task, find: FindFile = Path, audio: str | None = None) -> dict[str, MediaInfo]:
    """Find out what each of the task's media is, by the field that names it.

    Args:
        audio: a file whose sound is to go beside the frames; it is looked at, too.

    Raises:
        InvalidRequest: with every medium that is missing, broken, beyond the limits, or not what its field takes.
    """
    found: dict[str, MediaInfo] = {}
    bad: list[Violation] = []
    named = media_of(task)
    if audio is not None:
        named[SOUND] = audio
    for field, name in named.items():
        try:
            info = taken(asdict(probe_any(find(name))), field)
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


def taken(info: Mapping[str, Any], field: str) -> MediaInfo | None:
    """Take a file as the field does that names it: of an animated picture, the first frame where a picture is wanted.

    Args:
        info: a `serving.media.MediaInfo` or `serving.media.SoundInfo` as a dict.

    Returns:
        None for a sound.

    Raises:
        InvalidRequest: a sound where a picture or a clip is wanted, or one without sound where that is.
    """
    is_sound = "channels" in info
    if field == SOUND:
        if not (is_sound or info["has_audio"]):
            raise InvalidRequest(Violation(field, "has no sound that can be decoded, give a sound or a clip with one"))
        return None
    if is_sound:
        raise InvalidRequest(Violation(field, "is a sound, give a picture or a clip"))
    first = field.partition(".")[0] in PICTURES and info["kind"] == "clip" and info["container"] in PICTURE_TYPES
    return MediaInfo(
        kind="image" if first else info["kind"],
        width=info["width"],
        height=info["height"],
        frames=1 if first else info["frames"],
        fps=0.0 if first else float(info["fps"]),
        has_audio=info["has_audio"],
    )


def load(
    spec: VideoSpec,
    card: ModelCard,
    media: Mapping[str, MediaInfo],
    find: FindFile = Path,
    reader: Reader = READER,
) -> Inputs:
    """Decode the media of a task, clips at the frame rate of the result.

    Args:
        media: what `examine` found.

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
        longest = max(MAX_SOURCE_SECONDS, media[at].seconds) + 0.5  # how long it may be was seen when it was examined
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
                return Inputs(before=_last_frames(clip("clip", name), card))
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
    """The frames that a continuation starts with: as many as segments overlap, or the last one alone."""
    wanted = min(max(1, card.overlap_frames), len(clip.frames))
    return Clip(clip.frames[-whole(wanted, card.temporal) :], clip.fps)
