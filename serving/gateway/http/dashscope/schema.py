"""The bodies that the DashScope API takes, and jobs as its tasks."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from zoetrope.model.request.tasks import Fit, Quality, RequestLora, SamplerName
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.usage import usage_of

STATUS = {
    State.QUEUED: "PENDING",
    State.RUNNING: "RUNNING",
    State.SUCCEEDED: "SUCCEEDED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELED",
}
FAILURES = {"INVALID_ARGUMENT": "InvalidParameter", "DEADLINE_EXCEEDED": "RequestTimeOut"}
TIME = "%Y-%m-%d %H:%M:%S"
MAX_MEDIA = 16
MAX_SEED = 2**31 - 1  # as the original has it


class _Strict(BaseModel):
    """A field that is not known is refused: taking it silently would make another video than was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Medium(_Strict):
    type: str = Field(
        description="first_frame, last_frame, first_clip, driving_audio, reference_image, reference_video,"
        " reference_voice or video"
    )
    url: str = Field(min_length=1, description="an http, https, data or oss URL, or base64")
    reference_voice: str | None = Field(default=None, description="not used: no voices are made")


class Input(_Strict):
    """``media`` as of Wan 2.7, and the fields that earlier models had instead."""

    prompt: str | None = None
    negative_prompt: str | None = Field(default=None, description='default: the model\'s own; "" switches it off')
    media: list[Medium] = Field(default=[], max_length=MAX_MEDIA)
    img_url: str | None = None
    first_frame_url: str | None = None
    last_frame_url: str | None = None
    head_frame: str | None = None
    tail_frame: str | None = None
    reference_url: str | None = None
    reference_urls: list[str] = Field(default=[], max_length=MAX_MEDIA)
    reference_video_urls: list[str] = Field(default=[], max_length=MAX_MEDIA)
    audio_url: str | None = None
    template: str | None = Field(default=None, description="refused: there are no effects here")
    reference_video_description: list[str] = Field(default=[], description="refused: describe them in the prompt")
    # The SDK always sends these two; they say nothing.
    extend_prompt: bool | None = Field(default=None, description="ignored; see parameters.prompt_extend")
    function: str | None = Field(default=None, description="ignored")


class Parameters(_Strict):
    negative_prompt: str | None = Field(default=None, description="where input has none")
    size: str | None = Field(default=None, description="WIDTH*HEIGHT; default: the served model's own")
    resolution: str | None = Field(default=None, description="480P, 720P or 1080P, instead of size")
    ratio: str | None = Field(default=None, description="16:9, 9:16, 1:1, 4:3 or 3:4; also 3:2, 2:3, 21:9 and 9:21")
    fit: Fit | None = Field(
        default=None, description="of pictures of another ratio: cover (the default) cuts, contain puts black beside"
    )
    duration: float | None = Field(default=None, description="seconds; 0: of an edit, as long as its source")
    seed: int | None = Field(default=None, description=f"0 to {MAX_SEED}; default: random")
    prompt_extend: bool | None = Field(default=None, description="where the service can; see output.actual_prompt")
    watermark: bool | None = Field(default=None, description="not used: none is drawn")
    audio: bool | None = Field(
        default=None,
        description="true: have sound made, if the served model can and none is given; false: no sound, also if it is",
    )
    audio_setting: Literal["auto", "origin"] | None = Field(default=None, description="origin: keep the source's sound")
    shot_type: Literal["single", "multi"] | None = Field(
        default=None, description="not used: the prompt decides, as for Wan 2.7"
    )
    enable_thinking: bool | None = Field(default=None, description="not used")
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    flow_shift: float | None = Field(default=None, description="of the noise levels; default: the served model's own")
    sampler: SamplerName | None = Field(default=None, description="default: the served model's own")
    quality: Quality | None = Field(default=None, description="steps that are computed in full; default: exact, all")
    guidance_start: float | None = Field(default=None, description="share of the steps from which guidance acts")
    guidance_end: float | None = Field(default=None, description="share of the steps up to which guidance acts")
    loras: list[RequestLora] | None = Field(default=None, description="registered adapters, at most two")


class Synthesis(_Strict):
    model: str
    input: Input
    parameters: Parameters = Parameters()


class Output(BaseModel):
    task_id: str
    task_status: Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"]
    submit_time: str | None = None
    scheduled_time: str | None = None
    end_time: str | None = None
    orig_prompt: str | None = None
    actual_prompt: str | None = None
    video_url: str | None = None
    code: str | None = None
    message: str | None = None
    warnings: list[str] | None = Field(default=None, description="what of the request is not used, or not as it is")


class TaskUsage(BaseModel):
    duration: float
    video_count: int
    SR: int
    size: str
    fps: int
    price_gpu_seconds: float | None = Field(default=None, description="expected when it was submitted")
    used_gpu_seconds: float | None = None
    estimated_cost: float | None = Field(default=None, description="of the price, where the service has set one")


class Task(BaseModel):
    request_id: str
    output: Output
    usage: TaskUsage | None = None


class Listed(BaseModel):
    task_id: str
    status: str
    model_name: str
    api_key_id: str | None
    gmt_create: int = Field(description="milliseconds since the epoch, as the other times")
    start_time: int | None
    end_time: int | None


class Tasks(BaseModel):
    request_id: str
    data: list[Listed]
    page_no: int
    page_size: int
    total: int
    total_page: int


class Canceled(BaseModel):
    request_id: str


def task(job: Job, video_url: str | None = None) -> dict[str, Any]:
    """Show a job of any API as a task.

    Args:
        video_url: where its file can be fetched without a key (`serving.gateway.http.common.signed_urls`).
    """
    prompt = job.spec["task"]["prompt"]
    output: dict[str, Any] = {
        "task_id": job.id,
        "task_status": STATUS[job.state.public],
        "submit_time": time_text(job.created_at),
        "scheduled_time": time_text(job.started_at),
        "end_time": time_text(job.finished_at),
        "orig_prompt": job.origin.get("prompt", prompt),
        "warnings": list(job.warnings) or None,
    }
    if job.state is State.SUCCEEDED:
        output |= {"actual_prompt": prompt, "video_url": video_url}
    elif job.state is State.FAILED:
        code = FAILURES.get(job.error_code or "", "InternalError")
        output |= {"code": code, "message": job.error_message or "the task failed"}
    elif job.state is State.CANCELLED and job.error_message:
        output["message"] = job.error_message
    body: dict[str, Any] = {
        "request_id": request_id(),
        "output": {key: value for key, value in output.items() if value is not None},
    }
    if job.state is State.SUCCEEDED and job.result is not None:
        body["usage"] = usage(job.result) | usage_of(job)
    return body


def usage(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a finished task used; SR is the shorter side, as in "720P"."""
    width, height, seconds = result["width"], result["height"], result["frames"] / result["fps"]
    return {
        "duration": int(seconds) if seconds == int(seconds) else round(seconds, 3),
        "video_count": 1,
        "SR": min(width, height),
        "size": f"{width}*{height}",
        "fps": result["fps"],
    }


def listed(job: Job) -> dict[str, Any]:
    """Show a job as an entry of a list of tasks."""
    return {
        "task_id": job.id,
        "status": STATUS[job.state.public],
        "model_name": job.asked_model,
        "api_key_id": job.key_id,
        "gmt_create": int(job.created_at * 1_000),
        "start_time": None if job.started_at is None else int(job.started_at * 1_000),
        "end_time": None if job.finished_at is None else int(job.finished_at * 1_000),
    }


def time_text(at: float | None) -> str | None:
    """Format a time, UTC, to the millisecond."""
    if at is None:
        return None
    return f"{time.strftime(TIME, time.gmtime(at))}.{int(at % 1 * 1_000):03d}"


def request_id() -> str:
    return str(uuid.uuid4())
