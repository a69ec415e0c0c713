"""What the models of the Replicate face take, and how it becomes a task of the model that is served.

The fields are those of the public wan-video models on Replicate, with the names that their earlier versions had
(`ALIASES`), and steps, guidance, frames and frame rate besides. A field that is not known is refused, for a client
that is told nothing would take its video for what it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.tasks import PANELS, Container, Fit, InvalidRequest, ModelCard, Seed, VideoRequest, Violation
from serving.gateway.http.base import parse

OWNER = "wan-video"
# What a field was called in earlier versions of the public models, or is called by other services.
ALIASES = {
    "ratio": "aspect_ratio",
    "sample_steps": "num_inference_steps",
    "steps": "num_inference_steps",
    "sample_guide_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "shift": "flow_shift",
    "sample_shift": "flow_shift",
    "fps": "frames_per_second",
    "prompt_extend": "enable_prompt_expansion",
    "prompt_expansion": "enable_prompt_expansion",
    "optimize_prompt": "enable_prompt_expansion",
    "image": "first_frame",
    "last_image": "last_frame",
    "driving_audio": "audio",
}
# The face's names -> ours.
PASSED_ON = {
    "aspect_ratio": "ratio",
    "duration": "duration_seconds",
    "num_frames": "frames",
    "frames_per_second": "fps",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "guidance_scale_2": "guidance_low",
    "flow_shift": "flow_shift",
    "fit": "fit",
    "output_format": "container",
    "seed": "seed",
    "audio": "audio",
}
FACE_NAMES = {ours: face for face, ours in PASSED_ON.items()} | {
    "size": "resolution",
    "expand_prompt": "enable_prompt_expansion",
    "image": "first_frame",
    "clip": "first_clip",
    "panels": "images",
}
TASK_FIELDS = (
    *("prompt", "negative_prompt", "image", "clip", "loop", "first_frame", "last_frame", "panels", "references"),
    *("video", "keep_audio"),
)
NOT_EXPANDED = "enable_prompt_expansion was asked for, but this service expands no prompts: yours was used as it is"

Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]  # whole numbers that JSON can carry
AspectRatio = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21"]  # model.sizes.RATIOS
Url = Field(default=None, min_length=1, json_schema_extra={"format": "uri"})


class WanInput(BaseModel):
    """What all models take. Fields that are left out, or null, are the service's to choose."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(default="", description="What the video shows; edits: what is to change.")
    negative_prompt: str | None = Field(
        default=None, description='What it should not show. Default: the served model\'s own; "" switches that off.'
    )
    resolution: Literal["480p", "720p", "1080p"] = Field(default="720p", description="Edits go up to 720p.")
    size: str | None = Field(default=None, description="WIDTH*HEIGHT in pixels, in place of resolution and ratio.")
    aspect_ratio: AspectRatio | None = Field(
        default=None, description="By default that of the picture or clip, where there is one, else 16:9."
    )
    fit: Fit | None = Field(
        default=None,
        description="How a picture or clip of another ratio enters the frame: cover, the default, cuts what stands out;"
        " contain puts black beside it.",
    )
    duration: float | None = Field(default=None, description="Seconds; default: the served model's.")
    num_frames: Whole | None = Field(default=None, description="In place of duration.")
    frames_per_second: Whole | None = Field(default=None, description="Default: the served model's.")
    num_inference_steps: Whole | None = Field(default=None, description="Default: the served model's.")
    guidance_scale: float | None = Field(default=None, description="Default: the served model's.")
    guidance_scale_2: float | None = Field(
        default=None, description="Of the low-noise expert, for models that have two noise experts."
    )
    flow_shift: float | None = Field(
        default=None, description="Shift of the noise levels, 0.01 to 100. Default: the served model's."
    )
    seed: Seed | None = None
    output_format: Container | None = Field(
        default=None,
        description="mp4, the default, or mkv without loss; png and webp (both without loss) or jpg make a picture of"
        " one frame.",
    )
    enable_prompt_expansion: bool | None = Field(
        default=None,
        description="Have the prompt rewritten. Without effect, but for a line in the logs, where the service has no "
        "such hook. Off by default.",
    )
    watermark: Literal[False] | None = Field(default=None, description="None is ever added.")


class SoundInput(WanInput):
    """Of models whose videos can be given a track."""

    audio: str | None = Field(
        default=None, min_length=1, description="A track to put beside the frames.", json_schema_extra={"format": "uri"}
    )


class TextInput(SoundInput):
    """wan-2.7-t2v: a clip from words alone."""

    prompt: str = Field(description="What the video shows.")


class ImageInput(SoundInput):
    """wan-2.7-i2v: give first_frame, first_frame and last_frame, first_clip, or images."""

    first_frame: str | None = Url
    last_frame: str | None = Url
    first_clip: str | None = Field(default=None, min_length=1, description="The video goes on where this one ends.")
    images: list[str] | None = Field(
        default=None, description=f"A storyboard: {PANELS} pictures, or one sheet of three rows of three."
    )
    loop: bool | None = Field(default=None, description="End with the frame it starts with.")


class ReferenceInput(SoundInput):
    """wan-2.7-r2v: a clip of what pictures or clips show; the prompt calls them "Image 1", "Video 1"."""

    prompt: str = Field(description="What the video shows.")
    reference_images: list[str] = Field(default=[], description="With reference_videos at most five.")
    reference_videos: list[str] = []
    first_frame: str | None = Url
    shot_type: Literal["single"] | None = Field(default=None, description="Describe several shots in the prompt.")


class EditInput(WanInput):
    """wan-2.7-videoedit: a clip changed by an instruction."""

    prompt: str = Field(description="What is to change; the rest stays.")
    video: str = Field(min_length=1, description="2 to 10 seconds.", json_schema_extra={"format": "uri"})
    reference_image: str | None = Url
    reference_images: list[str] = Field(default=[], description="At most four, with reference_image.")
    duration: float | None = Field(default=None, description="Seconds from the start; 0, the default: all of it.")
    audio_setting: Literal["auto", "origin"] | None = Field(
        default=None, description="origin: keep the track. auto is silent, for the model makes no sound."
    )


@dataclass(frozen=True)
class Translated:
    """An input in our terms.

    Attributes:
        data: of a serving.gateway.intake.Order.
        names: our fields -> the client's, where they differ; a name stands for what is below it, too.
        notes: for the logs of the prediction.
    """

    data: dict[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    expand: bool = False
    notes: tuple[str, ...] = ()


class Names:
    """Which names the client used."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def client(self, ours: str) -> str:
        """A field of ours (``references.1``) as the client wrote it, below ``input``."""
        stem, rest = ours, ""
        while stem not in self._names:
            stem, dot, last = stem.rpartition(".")
            if not dot:
                return f"input.{ours}"
            rest = f".{last}{rest}"
        return ".".join(filter(None, ("input", self._names[stem]))) + rest


@dataclass(frozen=True)
class FaceModel:
    """A model as this face shows it: some tasks of the one that is served."""

    name: str
    tasks: tuple[str, ...]
    description: str
    input: type[BaseModel]
    task: Callable[[Any, dict[str, str]], dict[str, Any]] | None = None  # of a checked input; adds to the names

    @property
    def id(self) -> str:
        return f"{OWNER}/{self.name}"


def translate(model: FaceModel, given: Mapping[str, Any], expands: bool) -> Translated:
    """
    Args:
        expands: the service has a hook that expands prompts.

    Raises:
        InvalidRequest: fields as the client wrote them, below ``input``.
    """
    if model.task is None:
        return Translated(dict(given), {name: f"task.{name}" for name in TASK_FIELDS})
    plain, names = _without_aliases(model, given)
    try:
        found = parse(model.input, plain)
        task = model.task(found, names)
    except InvalidRequest as error:
        client = Names(names).client
        raise InvalidRequest(*(Violation(client(v.field), v.description) for v in error.violations)) from None
    for ours, face in FACE_NAMES.items():
        names.setdefault(ours, names.get(face, face))
    names["task"] = ""  # it is the input as a whole that makes it
    values = found.model_dump(exclude_none=True)
    if isinstance(found, EditInput) and found.duration == 0:
        del values["duration"]
    data = {"task": task, "size": found.resolution}
    data |= {ours: values[face] for face, ours in PASSED_ON.items() if face in values}
    if found.size is not None:
        data["size"], names["size"] = found.size, "size"
    wished = bool(found.enable_prompt_expansion)
    notes = (NOT_EXPANDED,) if wished and not expands else ()
    return Translated(data, names, wished and expands, notes)


def _without_aliases(model: FaceModel, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    plain: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in given.items():
        known = name if name in model.input.model_fields else ALIASES.get(name, name)
        if known in plain:
            description = f"means the same as {names.get(known, known)}, give one of them"
            raise InvalidRequest(Violation(f"input.{name}", description))
        if value is None and known in model.input.model_fields and not model.input.model_fields[known].is_required():
            continue  # as if it were not there
        plain[known] = value
        if known != name:
            names[known] = name
    return plain, names


def _words(found: WanInput) -> dict[str, Any]:
    return {"prompt": found.prompt, "negative_prompt": found.negative_prompt}


def _text_task(found: TextInput, names: dict[str, str]) -> dict[str, Any]:
    return {"kind": "text_to_video", **_words(found)}


def _image_task(found: ImageInput, names: dict[str, str]) -> dict[str, Any]:
    starts = [name for name in ("first_frame", "first_clip", "images") if getattr(found, name) is not None]
    if len(starts) != 1:
        together = " and ".join(names.get(name, name) for name in starts)
        given = f"{together} are given together" if starts else "is missing"
        field = starts[1] if starts else "first_frame"
        raise InvalidRequest(Violation(field, f"{given}: give one of first_frame, first_clip and images"))
    words = _words(found)
    if found.first_frame is None and (found.last_frame is not None or found.loop):
        field = "last_frame" if found.last_frame is not None else "loop"
        raise InvalidRequest(Violation(field, f"is given together with {starts[0]}, but needs a first_frame"))
    if found.images is not None:
        if len(found.images) not in (1, PANELS):
            description = f"has {len(found.images)} entries, give {PANELS} pictures or one sheet of them"
            raise InvalidRequest(Violation("images", description))
        return {"kind": "grid_to_video", **words, "panels": found.images}
    if found.last_frame is not None:
        if found.loop:
            raise InvalidRequest(Violation("loop", "is given together with last_frame, give one of them"))
        frames = {"first_frame": found.first_frame, "last_frame": found.last_frame}
        return {"kind": "first_last_frame", **words, **frames}
    if found.first_clip is not None:
        return {"kind": "image_to_video", **words, "clip": found.first_clip}
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


WAN_MODELS = (
    FaceModel("wan-2.7-t2v", ("text_to_video",), "A video from words alone.", TextInput, _text_task),
    FaceModel(
        "wan-2.7-i2v",
        ("image_to_video", "first_last_frame", "grid_to_video"),
        "A video from a first picture, a first and a last one, a clip to go on from, or a storyboard.",
        ImageInput,
        _image_task,
    ),
    FaceModel(
        "wan-2.7-r2v",
        ("reference_to_video",),
        "A video of what pictures or clips show.",
        ReferenceInput,
        _reference_task,
    ),
    FaceModel("wan-2.7-videoedit", ("edit_video",), "A video changed by an instruction.", EditInput, _edit_task),
)
MODEL_OF_TASK = {task: model for model in WAN_MODELS for task in model.tasks}


def face_models(card: ModelCard) -> list[FaceModel]:
    """The models whose tasks the served one has, and that one under its own name, with all fields of our own."""
    own = FaceModel(card.name, card.tasks, "Every task, with the service's own fields.", VideoRequest)
    return [*(model for model in WAN_MODELS if set(model.tasks) & set(card.tasks)), own]
