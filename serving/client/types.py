"""What the client takes and returns: plain data classes, and its error. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from zoetrope.model.request.tasks import RequestLora, Task, VideoRequest, Violation
from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2


class ClientError(Picklable):
    """The service refused, failed or did not answer. `str` is one line.

    Attributes:
        code: a google.rpc.Code name.
        violations: the fields at fault, as the proto names them.
        reason: what happened, for programs (UPPER_SNAKE_CASE); "" if the service did not say.
        retry_seconds: after how long to try again; None if the service did not say.
        metadata: details of the reason, such as the limit of a quota.
    """

    def __init__(
        self,
        code: str,
        message: str,
        violations: tuple[Violation, ...] = (),
        *,
        reason: str = "",
        retry_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code
        self.message = str(self)
        self.violations = violations
        self.reason = reason
        self.retry_seconds = retry_seconds
        self.metadata = dict(metadata or {})


def invalid(*violations: Violation) -> ClientError:
    """Make the error for what the client itself refuses."""
    return ClientError(
        "INVALID_ARGUMENT", "; ".join(f"{v.field}: {v.description}" for v in violations), tuple(violations)
    )


@dataclass(frozen=True)
class Tls:
    """PEM files. Without a root certificate those of the system are trusted."""

    root: Path | None = None
    certificate: Path | None = None  # of the client, if the service asks for one
    key: Path | None = None  # of that certificate


@dataclass(frozen=True)
class Webhook:
    """A URL that receives a job's events: start, output and completed; by default start and completed."""

    url: str
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class MediaFile:
    """An uploaded file."""

    name: str  # media/...
    ready: bool
    size_bytes: int
    received_bytes: int
    sha256: str
    filename: str
    mime_type: str
    kind: str  # image, clip or sound; "" until it is ready
    width: int
    height: int
    frames: int
    fps: float
    has_audio: bool
    create_time: float
    expire_time: float


# A picture, clip or sound: the path of a local file, the bytes, an uploaded file ("media/..."), an http, https or data
# URL, or a finished job ("operations/..." or "videos/...").
Source: TypeAlias = Path | bytes | str | MediaFile


# A registered adapter: its name, or its fields.
LoraSource: TypeAlias = str | RequestLora | Mapping[str, Any]


class VideoFields(TypedDict, total=False):
    """Fields of a request; see CreateVideoRequest in the proto. None means not set.

    Media of a task are each a `Source`. ``prompt`` and ``negative_prompt`` belong to the task; without one they make a
    text_to_video task. An unset negative prompt is the model's own default; "" is none.
    """

    task: Task | Mapping[str, Any] | None
    prompt: str | None
    negative_prompt: str | None
    model: str | None
    size: str | None
    ratio: str | None
    fit: str | None  # cover or contain
    duration_seconds: float | None
    frames: int | None
    fps: int | None
    steps: int | None
    guidance: float | None
    guidance_low: float | None
    flow_shift: float | None
    sampler: str | None  # unipc, euler or dpm++
    quality: str | None  # exact, balanced or fast
    guidance_start: float | None
    guidance_end: float | None
    loras: Sequence[LoraSource] | None
    seed: int | None
    container: str | None  # mp4 or mkv; png, webp or jpg for a picture of one frame
    keep_latents: bool | None
    audio: Source | None
    generate_audio: bool | None
    request_id: str | None  # repeating a request with the same id returns the same job; random by default
    labels: Mapping[str, str] | None
    priority: int | None
    deadline: float | datetime | None
    retention: float | timedelta | None  # seconds
    webhook: str | Webhook | None


class ExtendFields(TypedDict, total=False):
    """Fields of ExtendVideoRequest; None means as for the first video."""

    negative_prompt: str | None
    duration_seconds: float | None
    frames: int | None
    steps: int | None
    guidance: float | None
    seed: int | None
    request_id: str | None
    labels: Mapping[str, str] | None


Request: TypeAlias = VideoRequest | Task | Mapping[str, Any]


@dataclass(frozen=True)
class VideoInfo:
    """A finished video, or picture."""

    name: str  # videos/...
    width: int
    height: int
    native_width: int
    native_height: int
    frames: int
    fps: int
    size_bytes: int
    sha256: str
    mime_type: str
    seed: int
    steps: int
    guidance: float
    model: str
    task: str
    expire_time: float
    uri: str  # fetches it by HTTP without a key; "" if the store signs no URLs
    timings: dict[str, float]  # seconds by stage
    flow_shift: float | None = None  # None: the model has none


Verdict: TypeAlias = video_pb2.Verdict
PreviewImage: TypeAlias = video_pb2.Preview


@dataclass(frozen=True)
class AppliedAdapter:
    """A registered adapter that is applied to a video; see AppliedAdapter in the proto."""

    name: str
    sha256: str
    strength: float
    strength_low: float | None = None  # None: as ``strength``


@dataclass(frozen=True)
class OperationStatus:
    """A job's state, as get, list, wait and watch return it."""

    name: str
    state: str  # queued, conditioning, denoising, decoding, succeeded, failed or cancelled
    step: int
    steps: int
    queue_position: int
    eta_seconds: float | None
    model: str
    create_time: float
    start_time: float | None
    end_time: float | None
    attempt: int
    cancel_requested: bool
    done: bool
    error: ClientError | None  # why a finished job made no video
    video: VideoInfo | None
    warnings: tuple[str, ...] = ()
    task: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    deadline: float | None = None
    expire_time: float | None = None  # of the job and its files; set once it is done
    verdicts: tuple[Verdict, ...] = ()
    preview: PreviewImage | None = None  # a new one, if watch was asked for previews
    notice: str = ""  # why it is held up, while something that it needs is down
    prompt: str = ""  # its first 500 characters
    eta_low_seconds: float | None = None  # the interval of the estimate; None: there is none
    eta_high_seconds: float | None = None
    price_gpu_seconds: float | None = None  # that it was expected to take; None: that was not known
    used_gpu_seconds: float = 0.0  # so far, in all attempts
    estimated_cost: float | None = None  # of the price; None: the service has set none for a GPU-hour
    weights: str = ""  # what its model's were known by when it was submitted; "": that was not known
    adapters: tuple[AppliedAdapter, ...] = ()


@dataclass(frozen=True)
class ValidatedVideo:
    """A request as it was understood, and its price; see ValidateVideoResponse in the proto."""

    model: str
    task: str
    width: int
    height: int
    native_width: int
    native_height: int
    frames: int
    fps: int
    segments: int
    steps: int  # of each segment
    computed_steps: int
    warnings: tuple[str, ...]
    price_gpu_seconds: float | None
    price_by_stage: dict[str, float]
    measured: bool  # false: the price follows from data sheets alone
    estimated_cost: float | None
    estimated_cost_per_second: float | None
    eta_seconds: float | None
    eta_low_seconds: float | None
    eta_high_seconds: float | None


@dataclass(frozen=True)
class Page:
    """Some operations, newest first; an empty token means there are no more."""

    operations: tuple[OperationStatus, ...]
    next_page_token: str


@dataclass(frozen=True)
class MediaPage:
    """Some uploaded files, newest first; an empty token means there are no more."""

    media: tuple[MediaFile, ...]
    next_page_token: str


@dataclass(frozen=True)
class VideoEvent:
    """A change of a job's state."""

    time: float
    from_state: str
    to_state: str
    actor: str
    attempt: int
    note: str


@dataclass(frozen=True)
class AccountInfo:
    """The caller's limits and their usage; None: no limit. See the proto."""

    tenant: str
    key_name: str
    requests_per_second: float | None
    burst: int
    concurrent_jobs: int | None
    queued_seconds: float | None
    models: tuple[str, ...]
    max_priority: int
    concurrent_jobs_used: int
    queued_seconds_used: float
    max_queued: int
    default_retention: float  # seconds
    max_retention: float
    max_upload_bytes: int
    media_retention: float
    media_formats: tuple[str, ...]
    max_media_bytes: int  # of all the tenant's uploaded files
    queued_jobs: int  # the most that the tenant may have queued now
    queued_jobs_used: int
    max_result_bytes: int  # of all the tenant's results
    result_bytes_used: int
    max_queued_gpu_seconds: float  # of a model's unfinished jobs, of all callers
    queued_gpu_seconds: dict[str, float]  # by model, the most that the tenant's unfinished jobs may have now
    queued_gpu_seconds_used: dict[str, float]


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter that is a part of a model's weights; see FusedAdapter in the proto."""

    name: str
    sha256: str
    strength: float
    expert: str


@dataclass(frozen=True)
class ModelInfo:
    """A served model and its limits; see the proto."""

    name: str
    ready: bool
    tasks: tuple[str, ...]
    audio: bool
    native_sizes: tuple[tuple[int, int], ...]
    size_multiple: int
    fps: int
    max_frames: int
    max_duration_seconds: float
    default_steps: int
    default_guidance: float
    default_frames: int
    max_prompt_chars: int
    max_negative_prompt_chars: int
    max_steps: int
    max_guidance: float
    max_fps: int
    max_seed: int
    default_size: str = ""
    default_negative_prompt: str = ""
    default_flow_shift: float | None = None  # None: the model has none
    flow_shift_note: str = ""
    formats: tuple[str, ...] = ()  # of `VideoFields.container`
    aliases: tuple[str, ...] = ()  # other names by which requests may call it
    fused_adapters: tuple[AdapterInfo, ...] = ()
    adapters: tuple[str, ...] = ()  # that requests of the caller may have in `loras`
    profile: str = ""  # the locked sampling recipe of a few-step distill; "": none
    quantize: str = ""  # the form in which its weights are loaded: none or fp8; "": an older service does not say
