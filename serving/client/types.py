"""What the client takes and gives: plain data classes, and its error. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from model.errors import Picklable
from model.tasks import Task, VideoRequest, Violation


class ClientError(Picklable):
    """The service refused, failed or did not answer. `str` is one line.

    Attributes:
        code: a google.rpc.Code name.
        violations: the fields at fault, as the proto names them.
        reason: what happened, for programs (UPPER_SNAKE_CASE); "" where the service did not say.
        retry_seconds: when it is worth trying again; None where the service did not say.
        metadata: what belongs to the reason, such as the limit of a quota.
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
    """Found by the client itself."""
    return ClientError(
        "INVALID_ARGUMENT", "; ".join(f"{v.field}: {v.description}" for v in violations), tuple(violations)
    )


@dataclass(frozen=True)
class Tls:
    """Files in PEM. Without a root certificate those of the system are trusted."""

    root: Path | None = None
    certificate: Path | None = None  # of the client, where the service asks for one
    key: Path | None = None  # of that certificate


@dataclass(frozen=True)
class Webhook:
    """Whom to tell of a job; the events are of start, output and completed, by default start and completed."""

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


# A picture, clip or sound: a local file (a text that is none of the following is its path), the bytes, what was
# uploaded ("media/..."), an http, https or data address, or a finished job ("operations/...").
Source: TypeAlias = Path | bytes | str | MediaFile


class VideoFields(TypedDict, total=False):
    """Fields of a request; see CreateVideoRequest in the proto. None means not set.

    Where a task names media, each is a `Source`. ``prompt`` and ``negative_prompt`` belong to the task, and stand for a
    task of words alone where there is none. A negative prompt that is not set is the model's own default; "" is none.
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
    seed: int | None
    container: str | None  # mp4 or mkv; png, webp or jpg for a picture of one frame
    keep_latents: bool | None
    audio: Source | None
    generate_audio: bool | None
    request_id: str | None  # repeating a request with the same one gives the same job; made up where it is missing
    labels: Mapping[str, str] | None
    priority: int | None
    deadline: float | datetime | None
    retention: float | timedelta | None  # seconds
    webhook: str | Webhook | None


class ExtendFields(TypedDict, total=False):
    """Fields of ExtendVideoRequest; None means not set, which is as the video was made."""

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

    name: str
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
    uri: str  # where it can be fetched by HTTP without a key, "" where the store signs no addresses
    timings: dict[str, float]  # seconds by stage
    flow_shift: float | None = None  # None: the model has none


@dataclass(frozen=True)
class Verdict:
    """What a check of a prompt or a video said."""

    check: str
    outcome: str  # passed, flagged, refused or changed
    note: str


@dataclass(frozen=True)
class PreviewImage:
    """A small picture of a clip in the making."""

    data: bytes = field(repr=False)
    mime_type: str
    width: int
    height: int
    step: int


@dataclass(frozen=True)
class OperationStatus:
    """A job, as get, list, wait and watch give it."""

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
    error: ClientError | None  # why a job that is done made no video
    video: VideoInfo | None
    warnings: tuple[str, ...] = ()
    task: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    deadline: float | None = None
    expire_time: float | None = None  # of the job and its files; set when it is done
    verdicts: tuple[Verdict, ...] = ()
    preview: PreviewImage | None = None  # a new one, where watch was asked for them
    notice: str = ""  # why it does not go on now, while something is away that it needs


@dataclass(frozen=True)
class Page:
    """Some operations, newest first; an empty token says that there are no more."""

    operations: tuple[OperationStatus, ...]
    next_page_token: str


@dataclass(frozen=True)
class MediaPage:
    """Some uploaded files, newest first; an empty token says that there are no more."""

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
    """The caller's limits and what is used of them; None: no limit. See the proto."""

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
    max_media_bytes: int  # of all files that a tenant keeps
    queued_jobs: int  # that the tenant may have queued now
    queued_jobs_used: int
    max_result_bytes: int  # of all results that the tenant keeps
    result_bytes_used: int


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
    default_flow_shift: float | None = None  # None: it has none
    flow_shift_note: str = ""
    formats: tuple[str, ...] = ()  # of `VideoFields.container`


Requests: TypeAlias = Sequence[Request]
