"""What a client may ask for: the vocabulary that all floors and APIs share. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from zoetrope.model.caching.ratios import RatioList
from zoetrope.model.request.fused_adapter import FusedAdapter
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.load_options import DEFAULT, LoadOptions
from zoetrope.model.request.media_fields import Takes, media_fields
from zoetrope.model.request.profile import Profile
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.schema_errors import describe
from zoetrope.model.runtime.errors import Picklable

MAX_PROMPT_CHARS = 5_000
MAX_NEGATIVE_CHARS = 500
MAX_SEED = 2**63 - 1
RANDOM_SEED = -1  # means "draw one", as in ComfyUI and Wan's own code
MAX_DRAWN_SEED = 2**31 - 1  # of those we draw: every API and every client's number type can represent them
MIN_FLOW_SHIFT, MAX_FLOW_SHIFT = 0.01, 100.0  # with smaller ones float32 has no schedule
MAX_STEPS = 1_000
MAX_GUIDANCE = 30.0
MAX_FPS = 60
MAX_DURATION_SECONDS = 15.0
MIN_SOURCE_SECONDS = 2.0  # of a clip to edit
MAX_SOURCE_SECONDS = 10.0
MAX_REFERENCE_SECONDS = 10.0
MAX_EDIT_PIXELS = 1_280 * 720
MAX_REFERENCES = 5
MAX_EDIT_REFERENCES = 4
PANELS = 9

# Which of a checkpoint's two noise experts an engine holds; "both" is all of any checkpoint.
Role = Literal["both", "high", "low"]
# How a picture or clip of another ratio is fitted: scaled to cover the frame and cropped, or whole with black bars.
Fit = Literal["cover", "contain"]
# The sampler that takes the steps, where a request names one, by the names that ComfyUI and others use.
SamplerName = Literal["unipc", "euler", "dpm++"]
# How many steps are computed: all, or those that change most, see `model.caching`.
Quality = Literal["exact", "balanced", "fast"]
# Of the file: a video, or a picture of one frame.
Container = Literal["mp4", "mkv", "png", "webp", "jpg"]
PICTURE_CONTAINERS: tuple[Container, ...] = ("png", "webp", "jpg")


@dataclass(frozen=True)
class Violation:
    """One field at fault: its name as the client wrote it, and a description with the value and the limit."""

    field: str
    description: str


MAX_FIELD_CHARS = 200  # of the name of a field at fault, which may be anything where it is not known


class InvalidRequest(Picklable, ValueError):
    """The request breaks a limit; `violations` names every field at fault.

    ``named``: as the client wrote them, rather than as the service calls them.
    """

    def __init__(self, *violations: Violation, named: bool = False) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations
        self.named = named


MAX_EXACT = 2**53 - 1  # the largest whole number that is exact where numbers are floats (JavaScript)


def _exact(value: object) -> object:
    """Refuse a number that may have been rounded: another seed makes another clip."""
    if isinstance(value, float) and abs(value) > MAX_EXACT:
        raise ValueError("a floating-point number above 2^53 may have been rounded, give all its digits")
    return value


# `model.request.resolve` checks the limits.
Seed = Annotated[
    int,
    BeforeValidator(_exact, json_schema_input_type=int | str),
    Field(
        description=f"0 to {MAX_SEED}, or {RANDOM_SEED} for a random one, as when it is left out. Above 2^53, where"
        " numbers of JavaScript are rounded, give the digits as a text; answers do so."
    ),
]

# Names an image or a clip: a file for `--local`, a stored object inside the service.
Media = Annotated[str, Field(min_length=1, max_length=1024)]
Picture = Annotated[Media, Takes("image")]
Continued = Annotated[Media, Takes("clip", max_seconds=MAX_DURATION_SECONDS)]  # whatever we make can be extended
Source = Annotated[Media, Takes("clip", MIN_SOURCE_SECONDS, MAX_SOURCE_SECONDS)]
Reference = Annotated[Media, Takes(max_seconds=MAX_REFERENCE_SECONDS)]


class _Prompted(BaseModel):
    """A task's prompts. ``negative_prompt`` None: the model's default; "": none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = ""
    negative_prompt: str | None = None


class TextToVideo(_Prompted):
    """A clip from words alone."""

    kind: Literal["text_to_video"] = "text_to_video"
    prompt: str


class ImageToVideo(_Prompted):
    """A clip that starts with a picture, or continues another clip."""

    kind: Literal["image_to_video"] = "image_to_video"
    image: Picture | None = None
    clip: Continued | None = None
    last_frame: Picture | None = None  # that the continuation ends with; `FirstLastFrame` leads from picture to picture
    loop: bool = False  # end with the first frame

    @model_validator(mode="after")
    def _one_start(self) -> ImageToVideo:
        if (self.image is None) == (self.clip is None):
            raise ValueError("give either image or clip")
        if self.loop and self.clip is not None:
            raise ValueError("loop needs an image to come back to")
        if self.last_frame is not None and self.clip is None:
            raise ValueError("last_frame goes with a clip; first_last_frame leads from one picture to another")
        return self


class FirstLastFrame(_Prompted):
    """A clip between two pictures."""

    kind: Literal["first_last_frame"] = "first_last_frame"
    first_frame: Picture
    last_frame: Picture


class GridToVideo(_Prompted):
    """A clip that follows a storyboard: nine pictures, or one that shows them in three rows of three."""

    kind: Literal["grid_to_video"] = "grid_to_video"
    panels: tuple[Picture, ...]

    @model_validator(mode="after")
    def _one_or_nine(self) -> GridToVideo:
        if len(self.panels) not in (1, PANELS):
            raise ValueError(f"panels has {len(self.panels)} entries, give {PANELS} pictures or one sheet of them")
        return self


class ReferenceToVideo(_Prompted):
    """A clip of the subjects of pictures or clips, which the prompt calls "Image 1", "Video 1", numbered per kind."""

    kind: Literal["reference_to_video"] = "reference_to_video"
    prompt: str
    references: tuple[Reference, ...] = Field(min_length=1, max_length=MAX_REFERENCES)
    first_frame: Picture | None = None


class EditVideo(_Prompted):
    """An edit of a clip by an instruction; what it does not mention is kept."""

    kind: Literal["edit_video"] = "edit_video"
    prompt: str
    video: Source
    references: tuple[Reference, ...] = Field(default=(), max_length=MAX_EDIT_REFERENCES)
    keep_audio: bool = False


Task = Annotated[
    TextToVideo | ImageToVideo | FirstLastFrame | GridToVideo | ReferenceToVideo | EditVideo,
    Field(discriminator="kind"),
]
TASKS: tuple[type[_Prompted], ...] = get_args(get_args(Task)[0])
# Kinds of task that cannot do without words.
PROMPT_REQUIRED = tuple(
    task.model_fields["kind"].default for task in TASKS if task.model_fields["prompt"].is_required()
)
# In this order requests are checked, and their media numbered in stored fingerprints: first_frame before last_frame.
MEDIA_FIELDS = media_fields(FirstLastFrame, *TASKS)
_TASK: TypeAdapter[Task] = TypeAdapter(Task)


def media_of(task: Task) -> dict[str, str]:
    """Return every image and clip that a task names, by the field that names it, e.g. ``references.0``."""
    found: dict[str, str] = {}
    for name, field in MEDIA_FIELDS.items():
        value = getattr(task, name, None)
        if value is not None:
            found |= {f"{name}.{i}": item for i, item in enumerate(value)} if field.many else {name: value}
    return found


@dataclass(frozen=True)
class MediaInfo:
    """What is known of an image or a clip before it is decoded; sizes as displayed."""

    kind: Literal["image", "clip"]
    width: int
    height: int
    frames: int = 1
    fps: float = 0.0  # of a clip
    has_audio: bool = False

    @property
    def seconds(self) -> float:
        return self.frames / self.fps if self.fps else 0.0


class RequestLora(BaseModel):
    """A registered adapter to apply to one request.

    ``strength_low``: of the low-noise expert, for models with two; None: as the other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=128)
    strength: float = 1.0
    strength_low: float | None = None


class VideoRequest(BaseModel):
    """A task, and how to make its clip. None means the model's default, or what the task's media imply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    model: str = ""
    size: str | None = None  # a name of `model.request.sizes.SIZES`, or WIDTHxHEIGHT
    ratio: str | None = None
    fit: Fit = "cover"
    duration_seconds: float | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_low: float | None = None
    flow_shift: float | None = None
    sampler: SamplerName | None = None
    quality: Quality = "exact"
    guidance_start: float = 0.0  # share of the steps from which guidance acts; outside, one branch is computed
    guidance_end: float = 1.0  # share of the steps up to which it acts
    loras: tuple[RequestLora, ...] = ()
    seed: Seed | None = None
    container: Container = "mp4"
    keep_latents: bool = False
    audio: Media | None = None
    generate_audio: bool = False


@dataclass(frozen=True)
class ModelCard:
    """What a model can do, from its preset and its checkpoint's configuration files."""

    name: str
    directory: str
    tasks: tuple[str, ...]
    native_sizes: tuple[tuple[int, int], ...]  # (width, height); empty: any multiple of `size_multiple`
    size_multiple: int  # pixels of one token: autoencoder stride times patch
    spatial: int  # pixels per latent cell
    temporal: int  # frames per latent frame after the first
    latent_channels: int
    fps: int
    default_frames: int
    max_frames: int  # of a clip, however many segments it takes
    default_steps: int
    default_guidance: float
    max_text_tokens: int
    segment_frames: int = 0  # the longest segment, 4n + 1; 0: as long as a clip
    overlap_frames: int = 0  # that a segment takes over from the one before it; 0: clips cannot be chained
    max_references: int = MAX_REFERENCES
    conditioner: str = "streams"  # how pictures and clips enter, see `model.conditioning`
    ends_with_frame: bool = True  # a clip can end with a given frame
    reference_clips: bool = True  # clips can be references, not only pictures
    family: str = ""  # the preset that it is, or is most like
    warnings: tuple[str, ...] = ()  # oddities of its files, shown to whoever starts it
    boundary: float | None = None  # between two noise experts, as a noise level of 0..1
    default_guidance_low: float | None = None  # of the low-noise expert; None: as the other
    audio: bool = False  # it generates sound
    default_size: str = "480p"  # a name of `model.request.sizes.SIZES`: what a request that names no size gets
    trained_sizes: tuple[tuple[int, int], ...] = ()  # taken for nearby sizes at which the model cannot denoise
    default_negative_prompt: str = ""  # of requests that name none
    default_flow_shift: float | None = None  # None: the scheduler has none
    flow_shift_note: str = ""  # where that comes from, if sources differ
    load: LoadOptions = DEFAULT
    adapters: tuple[FusedAdapter, ...] = ()  # in the order in which they are added
    profile: Profile | None = None  # the locked sampling recipe of a few-step distill
    step_ratios: tuple[RatioList, ...] = ()  # from which `quality` chooses the steps to compute
    exported_weights: str = ""  # identity of its weights, if it was exported to where its files are not

    @property
    def quantize(self) -> Quantize:
        """The form of its weights."""
        return self.load.quantize

    @property
    def max_duration_seconds(self) -> float:
        """At the model's own frame rate."""
        return min(MAX_DURATION_SECONDS, self.max_frames / self.fps)


def parse_request(data: dict[str, object]) -> VideoRequest:
    """Parse a request and check its types.

    Raises:
        InvalidRequest: with the path of each field at fault.
    """
    try:
        return VideoRequest.model_validate(data)
    except ValidationError as error:
        raise invalid_request(error, unnamed=TASK_KINDS) from None


def invalid_request(error: ValidationError, unnamed: Collection[str] = (), *, named: bool = False) -> InvalidRequest:
    """Convert pydantic's errors, by the path of each field. ``unnamed``: parts of paths that clients do not write;
    ``named``: see `InvalidRequest`."""
    violations = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"] if part not in unnamed) or "body"
        violations.append(Violation(path[:MAX_FIELD_CHARS], describe(item)))
    return InvalidRequest(*violations, named=named)
