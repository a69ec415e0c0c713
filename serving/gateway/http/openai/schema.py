"""The bodies that OpenAI's videos API takes, and jobs as its video objects."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from zoetrope.model.request.tasks import MAX_REFERENCES, Fit, Quality, RequestLora, SamplerName, Seed
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.usage import usage_of

STATUS: dict[State, Literal["queued", "in_progress", "completed", "failed"]] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}
FILE_ID = re.compile(r"med_[a-z0-9]+")
# Our tasks -> SGLang's, which has no others of them.
TASK_TYPES = {"text_to_video": "T2V", "image_to_video": "I2V", "edit_video": "V2V"}
POLL_MS = 1_000
POLL_MS_RANGE = (200, 5_000)


class _Strict(BaseModel):
    """A field that is not known is refused: taking it silently would make another video than was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _address(value: Any) -> Any:
    """Accept ``{"url": ADDRESS}``, as chat messages have it."""
    return value["url"] if isinstance(value, dict) and set(value) == {"url"} else value


Address = Annotated[str | None, BeforeValidator(_address, json_schema_input_type=str | None)]


class Reference(_Strict):
    """A picture or clip: one of the two."""

    image_url: Address = Field(default=None, description="an http, https or data URL")
    file_id: str | None = Field(default=None, description="of a file that was uploaded before")


class VideoReference(_Strict):
    """A clip: one of the two."""

    video_url: Address = Field(default=None, description="an http, https or data URL")
    file_id: str | None = Field(default=None, description="of a file that was uploaded before")


def _references(value: Any) -> Any:
    """Accept one or several; a text is a picture's URL, or a file's id."""
    many = value if isinstance(value, list) else [] if value is None else [value]
    return [_reference(item) for item in many]


def _reference(item: Any) -> Any:
    if isinstance(item, str):
        return {"file_id": item} if FILE_ID.fullmatch(item) else {"image_url": item}
    if isinstance(item, dict) and item.get("type") in ("image_url", "video_url", "file_id", "file"):
        return {key: value for key, value in item.items() if key != "type"}  # which the other field tells too
    return item


def _one(value: int | None) -> int | None:
    if value not in (None, 1):
        raise ValueError(f"{value} given, but a job makes one video; send one request for each")
    return value


# Fields that are objects or lists: a form has them as JSON text.
OBJECTS = ("image_reference", "input_reference", "input_references", "loras", "video", "video_reference")
One = Annotated[int | None, AfterValidator(_one)]
References = Annotated[list[Reference], BeforeValidator(_references), Field(max_length=MAX_REFERENCES)]
VideoReferences = Annotated[list[VideoReference], BeforeValidator(_references), Field(max_length=MAX_REFERENCES)]


class Prompted(_Strict):
    """A prompt, and what vLLM-Omni and SGLang take beside OpenAI's own fields."""

    prompt: str
    negative_prompt: str | None = Field(default=None, description='default: the model\'s own; "" switches it off')
    enhance_prompt: bool | None = Field(default=None, description="have the service's prompt expander rewrite it")
    seed: Seed | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = Field(default=None, description="of the low-noise expert of a Wan2.2 A14B")
    boundary_ratio: float | None = Field(default=None, description="between a model's noise experts: its own only")
    flow_shift: float | None = Field(default=None, description="of the noise levels; default: the model's own")
    sampler: SamplerName | None = Field(default=None, description="default: the model's own")
    quality: Quality | None = Field(default=None, description="steps that are computed in full; default: exact, all")
    guidance_start: float | None = Field(default=None, description="share of the steps from which guidance acts")
    guidance_end: float | None = Field(default=None, description="share of the steps up to which guidance acts")
    loras: list[RequestLora] = Field(default=[], description="registered adapters, at most two")
    max_sequence_length: int | None = Field(default=None, description="tokens of the prompt: the model's own only")
    fit: Fit | None = Field(
        default=None, description="of pictures of another ratio: cover (the default) cuts, contain puts black beside"
    )
    n: One = Field(default=None, description="1")
    num_outputs_per_prompt: One = Field(default=None, description="1")


class CreateVideo(Prompted):
    model: str = Field(default="", description="as GET /v1/models lists it; the served one by default")
    seconds: float | None = None
    size: str | None = Field(default=None, description="WIDTHxHEIGHT, or 480p, 720p, 1080p; default: the model's own")
    width: int | None = Field(default=None, description="together with height instead of size")
    height: int | None = None
    num_frames: int | None = Field(default=None, description="instead of seconds")
    fps: int | None = None
    aspect_ratio: str | None = Field(default=None, description="such as 9:16, with a named size or none")
    duration: float | None = Field(default=None, description="the same as seconds")
    generate_audio: bool | None = Field(default=None, description="for models that make sound")
    generate_sound: bool | None = Field(default=None, description="the same as generate_audio")
    input_reference: References = Field(
        default=[], description="one picture is the first frame; clips, and several of either, are references"
    )
    input_references: References = Field(default=[], description="the same as input_reference")
    image_reference: References = Field(default=[], description="the same as input_reference")
    reference_url: str | None = Field(default=None, description="a picture's URL; the same as input_reference")
    video_reference: VideoReferences = Field(default=[], description="clips to take as references")
    video_url: str | None = Field(default=None, description="a clip's URL; the same as video_reference")


class VideoId(_Strict):
    id: str


class EditVideoRequest(Prompted):
    model: str = ""
    video: VideoId | None = Field(default=None, description="a completed video; or a file of that name in a form")


class RemixVideo(Prompted):
    pass


class VideoError(BaseModel):
    code: str
    message: str


class Video(BaseModel):
    id: str
    object: Literal["video"] = "video"
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(description="percent")
    model: str
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    error: VideoError | None = None
    warnings: list[str] = Field(description="what the client should know about how the request was understood")
    num_outputs: int | None = Field(description="1 once it is there")
    inference_time_s: float | None = Field(description="from the start of the first stage to the end of the last")
    stage_durations: dict[str, float] = Field(description="seconds of work by stage, once it is completed")
    usage: dict[str, float] = Field(description="GPU-seconds expected and used so far, and the cost, if known")


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = Field(description="false: it runs and is being cancelled; delete it again once it has ended")


class OpenAIModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class SglangModelInfo(BaseModel):
    model_path: str = Field(description="the name to give as a request's model; no path of the service's machine")
    is_generation: Literal[True] = True
    model_type: Literal["diffusion"] = "diffusion"
    task_type: str | None = Field(description="TI2V: from words, and from a picture too")
    supported_task_types: list[str]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenAIModel]


def video(job: Job) -> dict[str, Any]:
    """Show a job of any API as a video object."""
    spec, done = job.spec, job.state is State.SUCCEEDED
    error = None
    if job.state is State.CANCELLED:
        error = VideoError(code="cancelled", message=job.error_message or "the job was cancelled")
    elif job.state is State.FAILED:
        error = VideoError(code=(job.error_code or "INTERNAL").lower(), message=job.error_message or "the job failed")
    return Video(
        id=job.id,
        created_at=int(job.created_at),
        completed_at=int(job.finished_at) if done and job.finished_at is not None else None,
        expires_at=None if job.expire_at is None else int(job.expire_at),
        status=STATUS[job.state.public],
        progress=100 if done else min(99, 100 * job.step // max(1, job.steps)),
        model=job.asked_model,
        prompt=spec["task"]["prompt"],
        seconds=f"{round(spec['frames'] / spec['fps'], 3):g}",
        size=f"{spec['width']}x{spec['height']}",
        remixed_from_video_id=job.origin.get("remixed_from"),
        error=error,
        warnings=list(job.warnings),
        num_outputs=1 if done else None,
        inference_time_s=_inference_seconds(job) if done else None,
        stage_durations=job.result.get("timings", {}) if done and job.result is not None else {},
        usage=usage_of(job),
    ).model_dump(mode="json")


def _inference_seconds(job: Job) -> float | None:
    if job.started_at is None or job.finished_at is None:
        return None
    return round(job.finished_at - job.started_at, 3)


def poll_after_ms(job: Job, eta_seconds: float | None) -> int:
    """Return when it is worth asking again; SDKs keep to the first answer until the end.

    Args:
        eta_seconds: until the job is done, as its outlook says.
    """
    if job.state.final or eta_seconds is None:
        return POLL_MS
    low, high = POLL_MS_RANGE
    return max(low, min(high, int(eta_seconds * 1_000 / 2)))
