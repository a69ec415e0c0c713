"""Bodies and answers of the dashboard."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from zoetrope.model.request.tasks import Container, Fit, Quality, RequestLora, SamplerName, Seed

Kind: TypeAlias = Literal[
    "text_to_video", "image_to_video", "first_last_frame", "grid_to_video", "reference_to_video", "edit_video"
]
MEDIUM = "media/ID of an upload, operations/ID of a finished job, or an http, https or data: URL"


class DashboardError(BaseModel):
    """What is wrong."""

    error: str
    reason: str
    fields: dict[str, str] = Field(description="What is wrong with each field at fault.")


class NewVideo(BaseModel):
    """What the page's form asks for: the fields of a task and those of its video, side by side."""

    model_config = ConfigDict(extra="forbid")

    task: Kind | None = Field(
        default=None, description="Default: image_to_video where an image is given, text_to_video otherwise."
    )
    model: str | None = Field(default=None, description="Default: the first one that has the task.")
    prompt: str | None = None
    negative_prompt: str | None = Field(default=None, description='Default: the model\'s own; "" for none.')
    image: str | None = Field(default=None, description=f"To start with: {MEDIUM}.")
    clip: str | None = Field(default=None, description=f"To go on from: {MEDIUM}.")
    loop: bool | None = Field(default=None, description="End with the first frame.")
    first_frame: str | None = Field(default=None, description=MEDIUM)
    last_frame: str | None = Field(default=None, description=MEDIUM)
    panels: list[str] | None = Field(default=None, description="Nine pictures, or one sheet of them.")
    references: list[str] | None = Field(default=None, description="Pictures or clips, in the order of their numbers.")
    video: str | None = Field(default=None, description=f"To edit: {MEDIUM}.")
    keep_audio: bool | None = None
    audio: str | None = Field(default=None, description=f"A track to put beside the frames: {MEDIUM}.")
    generate_audio: bool | None = None
    size: str | None = None
    ratio: str | None = None
    fit: Fit | None = None
    duration_seconds: float | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_low: float | None = None
    flow_shift: float | None = None
    sampler: SamplerName | None = None
    quality: Quality | None = None
    guidance_start: float | None = None
    guidance_end: float | None = None
    loras: list[RequestLora] | None = None
    seed: Seed | None = None
    container: Container | None = None


class MediaSlot(BaseModel):
    """A field of a task that takes media."""

    name: str
    kind: Literal["image", "clip"] | None = Field(description="null: either.")
    required: bool
    most: int | None = Field(description="How many a list takes; null: it is no list.")
    min_seconds: float
    max_seconds: float | None


class TaskForm(BaseModel):
    """What a task takes."""

    kind: Kind
    prompt_required: bool
    media: list[MediaSlot]
    switches: list[Literal["loop", "keep_audio"]]


class ModelForm(BaseModel):
    """A served model, as far as a form needs to know it."""

    name: str
    tasks: list[TaskForm]
    sizes: dict[str, dict[str, tuple[int, int]]] = Field(description="Pixels of the named sizes, by ratio.")
    ratios: list[str]
    default_size: str
    native_sizes: list[tuple[int, int]] = Field(description="At which it denoises; empty: multiples of size_multiple.")
    size_multiple: int
    fps: int
    max_fps: int
    default_seconds: float
    max_seconds: float
    default_steps: int
    max_steps: int
    default_guidance: float
    max_guidance: float
    two_experts: bool = Field(description="It has two noise experts, each with its own guidance.")
    default_guidance_low: float | None
    default_flow_shift: float | None = Field(description="null: it has none.")
    default_negative_prompt: str
    max_prompt_chars: int
    max_negative_prompt_chars: int
    generates_audio: bool
    formats: list[Container]
    picture_formats: list[Container]
    max_upload_bytes: int
    retention_seconds: float


class RunningJob(BaseModel):
    """A job of the caller's on an engine."""

    id: str
    prompt: str
    step: int
    steps: int


class DashboardEngine(BaseModel):
    """An engine, and what it runs."""

    id: str
    model: str
    state: str
    ranks: int
    gang_epoch: int
    restarts: dict[str, int] = Field(description="Gangs that it lost, by cause.")
    jobs: list[RunningJob]
    others: int = Field(description="Jobs of other tenants that it runs.")
    step_tokens: int | None = Field(description="Of the step in progress, for all tenants.")
    step_seconds: float | None = Field(description="That its newest finished step took.")
    expected_step_seconds: float | None = Field(description="That had been predicted for that step.")


class JobView(BaseModel):
    """A job as a card shows it. Times are seconds since the epoch."""

    id: str
    state: str
    stage: str | None
    task: str
    prompt: str
    size: str
    seconds: float
    seed: str = Field(description="A text: it may have more digits than a number of JavaScript holds.")
    container: str
    step: int
    steps: int
    queue_position: int
    eta_seconds: float | None
    eta_low_seconds: float | None = Field(description="The interval of the estimate, in which four out of five end.")
    eta_high_seconds: float | None
    notice: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    expire_at: float | None
    cancel_requested: bool
    error: str | None
    error_code: str | None
    warnings: list[str]
    preview: int | None = Field(description="The step that the preview shows.")
    video: bool = Field(description="There is a file.")
    download: str | None = Field(description="Where anybody can GET the file for a day, without a key.")


class JobDetails(JobView):
    """A job with what was asked for."""

    request: NewVideo = Field(description="Makes the same video again.")
    labels: dict[str, str]
    api: str = Field(description="Through which it was asked for.")
    timings: dict[str, float] = Field(description="Seconds by stage.")
    size_bytes: int | None


class DashboardState(BaseModel):
    """What the page shows."""

    models: list[str] = Field(description="The first is the default.")
    tasks: list[str]
    default_size: str
    tenant: str
    queued: int
    running: int
    engines: list[DashboardEngine]
    jobs: list[JobView]
    next_page_token: str = Field(description='Of the page of older jobs; "" on the last one.')
    searched_to: float | None = Field(description="Where a search stopped before the oldest job.")


class QueueShare(BaseModel):
    """A tenant's unfinished jobs of a model; where `others` is true, those of all other tenants."""

    model: str
    tenant: str
    others: bool
    queued: int
    running: int
    gpu_seconds: float = Field(description="That these jobs still cost.")


class WaitingJob(BaseModel):
    """A job of the caller's that has not begun."""

    id: str
    prompt: str
    queue_position: int
    eta_seconds: float | None
    notice: str


class DashboardQueue(BaseModel):
    """What waits for the engines."""

    queues: list[QueueShare]
    waiting: list[WaitingJob] = Field(description="The first of the caller's jobs that have not begun.")


class DashboardUpload(BaseModel):
    """A file to use as an input."""

    file: bytes = Field(description="A picture, a clip or a sound.", json_schema_extra={"format": "binary"})


class FileView(BaseModel):
    """An uploaded file."""

    name: str = Field(description="media/ID")
    kind: Literal["image", "clip", "sound"]
    filename: str
    mime_type: str
    size_bytes: int
    width: int | None
    height: int | None
    seconds: float
    has_audio: bool
    expire_at: float
