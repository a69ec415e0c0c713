"""What a client may ask for: the one vocabulary that all floors and all API faces share. Needs no torch."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_PROMPT_CHARS = 5_000
MAX_NEGATIVE_CHARS = 500
MAX_SEED = 2**31 - 1
MAX_STEPS = 1_000
MAX_GUIDANCE = 30.0
MAX_SIDE = 1_920
MIN_SIDE = 32
MAX_FPS = 60
MAX_DURATION_SECONDS = 15.0

RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4")
# Output sizes (width, height) that Wan's own service uses for a resolution and a ratio.
SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "480p": {"16:9": (832, 480), "9:16": (480, 832), "1:1": (624, 624), "4:3": (704, 528), "3:4": (528, 704)},
    "720p": {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (960, 960), "4:3": (1088, 832), "3:4": (832, 1088)},
    "1080p": {
        "16:9": (1920, 1080),
        "9:16": (1080, 1920),
        "1:1": (1440, 1440),
        "4:3": (1632, 1248),
        "3:4": (1248, 1632),
    },
}


@dataclass(frozen=True)
class Violation:
    """One field at fault: its name as the client wrote it, and a sentence with the value and the limit."""

    field: str
    description: str


class InvalidRequest(ValueError):
    """The request breaks a limit; `violations` names every field at fault."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class TextToVideo(BaseModel):
    """A clip from words alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["text_to_video"] = "text_to_video"
    prompt: str
    negative_prompt: str = ""


# The other five kinds make this a union, told apart by `kind`, when the model floor can run them.
Task = TextToVideo


class VideoRequest(BaseModel):
    """A task and how its clip is to be made. None means the model's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    model: str = ""
    size: str = "480p"
    ratio: str = "16:9"
    duration_seconds: float | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    container: Literal["mp4", "mkv"] = "mp4"
    keep_latents: bool = False


@dataclass(frozen=True)
class ModelCard:
    """What a model can do, read from its preset or its checkpoint's configuration files."""

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
    max_frames: int
    default_steps: int
    default_guidance: float
    max_text_tokens: int

    @property
    def max_duration_seconds(self) -> float:
        """At the model's own frame rate."""
        return min(MAX_DURATION_SECONDS, self.max_frames / self.fps)


@dataclass(frozen=True)
class VideoSpec:
    """A request with every default filled in and every limit checked: what the engine and the decoder work from."""

    model: str
    prompt: str
    negative_prompt: str
    width: int  # of the file
    height: int
    native_width: int  # of the clip that is denoised
    native_height: int
    frames: int  # in the file
    fps: int
    model_frames: int  # that the autoencoder gives back; those past `frames` are cut
    latent_shape: tuple[int, int, int, int]  # C, T, H, W
    steps: int
    guidance: float
    seed: int
    container: Literal["mp4", "mkv"]
    keep_latents: bool

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VideoSpec:
        """The inverse of ``dataclasses.asdict``, also after a way through JSON, which knows no tuples."""
        c, t, h, w = data["latent_shape"]
        return cls(**{**data, "latent_shape": (c, t, h, w)})


@dataclass(frozen=True)
class SegmentSpec:
    """One denoising run. ``id`` is unique for a job's lease epoch, so that a stale segment is recognised."""

    id: str
    latent_shape: tuple[int, int, int, int]  # C, T, H, W
    steps: int
    guidance: float
    seed: int


def segment_of(spec: VideoSpec, segment_id: str) -> SegmentSpec:
    return SegmentSpec(segment_id, spec.latent_shape, spec.steps, spec.guidance, spec.seed)


def needs_negative(guidance: float) -> bool:
    """Classifier-free guidance (Ho and Salimans, 2207.12598) has a second branch only above 1, as in diffusers."""
    return guidance > 1.0


def parse_request(data: dict[str, object]) -> VideoRequest:
    """Validate types.

    Raises:
        InvalidRequest: with the path of each field at fault.
    """
    try:
        return VideoRequest.model_validate(data)
    except ValidationError as error:
        violations = []
        for item in error.errors(include_url=False):
            path = ".".join(str(part) for part in item["loc"])
            violations.append(Violation(path, f"{item['msg']}, got {_short(item['input'])}"))
        raise InvalidRequest(*violations) from None


def resolve(request: VideoRequest, card: ModelCard, random_seed: int) -> VideoSpec:
    """Fill in the model's defaults and check every limit at once.

    Args:
        random_seed: used when the request names no seed, so that the job records the one it ran with.

    Raises:
        InvalidRequest: lists every field at fault with its value and limit.
    """
    bad: list[Violation] = []

    def check(ok: bool, field: str, description: str) -> None:
        if not ok:
            bad.append(Violation(field, description))

    task = request.task
    check(
        task.kind in card.tasks,
        "task",
        f"{task.kind} is not served by {card.name}, which serves {', '.join(card.tasks)}",
    )
    _check_text(bad, "prompt", task.prompt, MAX_PROMPT_CHARS, required=True)
    _check_text(bad, "negative_prompt", task.negative_prompt, MAX_NEGATIVE_CHARS, required=False)

    fps = card.fps if request.fps is None else request.fps
    check(1 <= fps <= MAX_FPS, "fps", f"{fps} is not within 1 to {MAX_FPS}")
    frames = _frames(bad, request, card, fps)
    steps = card.default_steps if request.steps is None else request.steps
    check(1 <= steps <= MAX_STEPS, "steps", f"{steps} is not within 1 to {MAX_STEPS}")
    guidance = card.default_guidance if request.guidance is None else request.guidance
    check(
        math.isfinite(guidance) and 0 <= guidance <= MAX_GUIDANCE,
        "guidance",
        f"{guidance} is not within 0 to {MAX_GUIDANCE:g}",
    )
    seed = random_seed if request.seed is None else request.seed
    check(0 <= seed <= MAX_SEED, "seed", f"{seed} is not within 0 to {MAX_SEED}")
    size = _size(bad, request)
    native = _native_size(bad, size, card) if size else None
    if bad or size is None or native is None:
        raise InvalidRequest(*bad)

    model_frames = math.ceil((frames - 1) / card.temporal) * card.temporal + 1
    return VideoSpec(
        model=card.name,
        prompt=task.prompt,
        negative_prompt=task.negative_prompt,
        width=size[0],
        height=size[1],
        native_width=native[0],
        native_height=native[1],
        frames=frames,
        fps=fps,
        model_frames=model_frames,
        latent_shape=(
            card.latent_channels,
            1 + (model_frames - 1) // card.temporal,
            native[1] // card.spatial,
            native[0] // card.spatial,
        ),
        steps=steps,
        guidance=guidance,
        seed=seed,
        container=request.container,
        keep_latents=request.keep_latents,
    )


def _check_text(bad: list[Violation], field: str, text: str, limit: int, *, required: bool) -> None:
    if required and not text.strip():
        bad.append(Violation(field, "is empty"))
    if len(text) > limit:
        bad.append(Violation(field, f"has {len(text)} characters, at most {limit} are allowed"))
    control = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t"), None)
    if control is not None:
        bad.append(Violation(field, f"has the control character U+{ord(control):04X}, which is not allowed"))


def _frames(bad: list[Violation], request: VideoRequest, card: ModelCard, fps: int) -> int:
    """Frames of the file, from `frames` or `duration_seconds`, else the model's default; 1 where a limit is broken."""
    if request.frames is not None and request.duration_seconds is not None:
        bad.append(Violation("frames", f"{request.frames} given together with duration_seconds, give one of them"))
        return 1
    if request.duration_seconds is None:
        frames = card.default_frames if request.frames is None else request.frames
        if not 1 <= frames <= card.max_frames:
            bad.append(Violation("frames", f"{frames} is not within 1 to {card.max_frames} for {card.name}"))
            return 1
        return frames
    longest = min(MAX_DURATION_SECONDS, card.max_frames / max(fps, 1))
    seconds = request.duration_seconds
    if not (math.isfinite(seconds) and 0 < seconds <= longest):
        limit = f"is not above 0 and at most {longest:.4g} for {card.name} at {fps} fps"
        bad.append(Violation("duration_seconds", f"{seconds} {limit}"))
        return 1
    return max(1, round(seconds * fps))


def _size(bad: list[Violation], request: VideoRequest) -> tuple[int, int] | None:
    """Width and height of the file."""
    if request.ratio not in RATIOS:
        bad.append(Violation("ratio", f"{_short(request.ratio)} is not one of {', '.join(RATIOS)}"))
        return None
    if request.size in SIZES:
        return SIZES[request.size][request.ratio]
    width, cross, height = request.size.partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        bad.append(Violation("size", f"{_short(request.size)} is not one of {', '.join(SIZES)} or WIDTHxHEIGHT"))
        return None
    if len(width) > 5 or len(height) > 5 or not all(MIN_SIDE <= int(s) <= MAX_SIDE for s in (width, height)):
        bad.append(Violation("size", f"{_short(request.size)} has a side that is not within {MIN_SIDE} to {MAX_SIDE}"))
        return None
    if int(width) % 2 or int(height) % 2:
        bad.append(Violation("size", f"{request.size} has an odd side, sides must be even"))
        return None
    return int(width), int(height)


def _native_size(bad: list[Violation], size: tuple[int, int], card: ModelCard) -> tuple[int, int] | None:
    """The size to denoise at: the requested one, or the model's own of the nearest aspect ratio."""
    if card.native_sizes:
        wanted = math.log(size[0] / size[1])
        return min(card.native_sizes, key=lambda s: (s != size, abs(math.log(s[0] / s[1]) - wanted)))
    unit = card.size_multiple
    if size[0] % unit or size[1] % unit:
        near = tuple(max(unit, round(side / unit) * unit) for side in size)
        bad.append(
            Violation(
                "size",
                f"{size[0]}x{size[1]} is not a multiple of {unit} on both sides, which {card.name} needs; "
                f"{near[0]}x{near[1]} is the nearest",
            )
        )
        return None
    return size


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
