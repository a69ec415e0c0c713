"""What the OpenAI videos API says: the bodies it takes, and jobs as its video objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from model.tasks import MAX_REFERENCES, Fit, Seed
from serving.jobs.job import Job, State

STATUS: dict[State, Literal["queued", "in_progress", "completed", "failed"]] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}
POLL_MS = 1_000
POLL_MS_RANGE = (200, 5_000)


class _Strict(BaseModel):
    """A field that is not known is refused: taking it silently would make another video than was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reference(_Strict):
    """A picture or clip: one of the two."""

    image_url: str | None = Field(default=None, description="an http, https or data address")
    file_id: str | None = Field(default=None, description="of a file that was uploaded before")


def _references(value: Any) -> Any:
    """One or several; an address alone is a picture's."""
    many = value if isinstance(value, list) else [value]
    return [{"image_url": item} if isinstance(item, str) else item for item in many]


class Prompted(_Strict):
    """A prompt, and what vLLM-Omni and SGLang take beside OpenAI's own fields."""

    prompt: str
    negative_prompt: str | None = Field(default=None, description='default: the model\'s own; "" switches it off')
    seed: Seed | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = Field(default=None, description="of the low-noise expert of a Wan2.2 A14B")
    flow_shift: float | None = Field(default=None, description="of the noise levels; default: the model's own")
    fit: Fit | None = Field(
        default=None, description="of pictures of another ratio: cover (the default) cuts, contain puts black beside"
    )


class CreateVideo(Prompted):
    model: str = Field(default="", description="as GET /v1/models lists it; the served one by default")
    seconds: float | None = None
    size: str | None = Field(default=None, description="WIDTHxHEIGHT, or 480p, 720p, 1080p; default: the model's own")
    width: int | None = Field(default=None, description="together with height instead of size")
    height: int | None = None
    num_frames: int | None = Field(default=None, description="instead of seconds")
    fps: int | None = None
    input_reference: Annotated[list[Reference], BeforeValidator(_references), Field(max_length=MAX_REFERENCES)] = Field(
        default=[], description="one picture is the first frame; clips, and several of either, are references"
    )
    reference_url: str | None = Field(default=None, description="a picture's address; the same as input_reference")
    n: int | None = Field(default=None, ge=1, le=1)


class VideoId(_Strict):
    id: str


class EditVideo(Prompted):
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


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


def video(job: Job) -> dict[str, Any]:
    """A job of any face as a video object."""
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
        status=STATUS[job.state],
        progress=100 if done else min(99, 100 * job.step // max(1, job.steps)),
        model=job.model,
        prompt=spec["task"]["prompt"],
        seconds=f"{round(spec['frames'] / spec['fps'], 3):g}",
        size=f"{spec['width']}x{spec['height']}",
        remixed_from_video_id=job.origin.get("remixed_from"),
        error=error,
    ).model_dump(mode="json")


def poll_after_ms(job: Job) -> int:
    """When it is worth asking again; SDKs keep to the first answer until the end."""
    if job.state is not State.RUNNING or job.eta_seconds is None:
        return POLL_MS
    low, high = POLL_MS_RANGE
    return max(low, min(high, int(job.eta_seconds * 1_000 / 2)))
