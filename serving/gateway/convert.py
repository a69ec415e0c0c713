"""Jobs as the API's messages."""

from __future__ import annotations

from dataclasses import dataclass

from google.longrunning import operations_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, status_pb2

from model.tasks import (
    MAX_FPS,
    MAX_GUIDANCE,
    MAX_NEGATIVE_CHARS,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    MAX_STEPS,
    ModelCard,
    Violation,
)
from serving.api.zoetrope.video.v1 import video_pb2
from serving.gateway.errors import ApiError
from serving.jobs.job import Job, Stage, State
from serving.jobs.store import JobStore

PREFIX = "operations/"
CONTAINERS = {
    video_pb2.VIDEO_FORMAT_UNSPECIFIED: "mp4",
    video_pb2.VIDEO_FORMAT_MP4: "mp4",
    video_pb2.VIDEO_FORMAT_MKV: "mkv",
}
STATES = {
    State.QUEUED: video_pb2.VIDEO_STATE_QUEUED,
    State.SUCCEEDED: video_pb2.VIDEO_STATE_SUCCEEDED,
    State.FAILED: video_pb2.VIDEO_STATE_FAILED,
    State.CANCELLED: video_pb2.VIDEO_STATE_CANCELLED,
}
STAGES = {
    None: video_pb2.VIDEO_STATE_CONDITIONING,
    Stage.CONDITIONING: video_pb2.VIDEO_STATE_CONDITIONING,
    Stage.DENOISING: video_pb2.VIDEO_STATE_DENOISING,
    Stage.DECODING: video_pb2.VIDEO_STATE_DECODING,
}
OPTIONAL_FIELDS = ("duration_seconds", "frames", "fps", "steps", "guidance", "seed")


@dataclass(frozen=True)
class Outlook:
    """How long a job still has to go."""

    queue_position: int
    eta_seconds: float | None


def outlook(store: JobStore, job: Job) -> Outlook:
    """Read from the store what the job's row alone does not say."""
    if job.state is State.QUEUED:
        position = store.queue_position(job)
        each = store.recent_run_seconds(job.model)
        return Outlook(position, None if each is None else each * (position + 1))
    return Outlook(0, job.eta_seconds if job.state is State.RUNNING else None)


def operation_name(job: Job) -> str:
    return PREFIX + job.id


def find_job(store: JobStore, name: str, owner: str) -> Job:
    """The job of an operation.

    Raises:
        ApiError: NOT_FOUND.
    """
    job = store.get(name.removeprefix(PREFIX), owner) if name.startswith(PREFIX) else None
    if job is None:
        raise unknown_operation(name)
    return job


def unknown_operation(name: str) -> ApiError:
    shown = name if len(name) <= 80 else name[:77] + "..."
    violation = Violation("name", f"{shown!r} is not a known operation; names look like {PREFIX}vid_...")
    return ApiError("NOT_FOUND", "UNKNOWN_OPERATION", f"name: {violation.description}", violations=(violation,))


def request_data(request: video_pb2.CreateVideoRequest) -> tuple[dict[str, object], list[Violation]]:
    """The fields that are set, as serving.gateway.intake takes them, and what is wrong with those it cannot take."""
    data: dict[str, object] = {"model": request.model, "keep_latents": request.keep_latents}
    bad: list[Violation] = []
    if request.format in CONTAINERS:
        data["container"] = CONTAINERS[request.format]
    else:
        bad.append(Violation("format", f"{request.format} is not a known format, give MP4 or MKV"))
    if request.HasField("text_to_video"):
        task = request.text_to_video
        data["task"] = {"kind": "text_to_video", "prompt": task.prompt, "negative_prompt": task.negative_prompt}
    for field in ("size", "ratio"):
        if value := getattr(request, field):
            data[field] = value
    for field in OPTIONAL_FIELDS:
        if request.HasField(field):
            data[field] = getattr(request, field)
    return data, bad


def video_state(job: Job) -> video_pb2.VideoState:
    return STAGES[job.stage] if job.state is State.RUNNING else STATES[job.state]


def metadata(job: Job, ahead: Outlook) -> video_pb2.VideoMetadata:
    message = video_pb2.VideoMetadata(
        state=video_state(job),
        step=job.step,
        steps=job.steps,
        queue_position=ahead.queue_position,
        eta_seconds=ahead.eta_seconds,
        model=job.model,
        create_time=timestamp(job.created_at),
        attempt=job.attempt,
        cancel_requested=job.cancel_requested,
        warnings=job.warnings,
    )
    if job.started_at is not None:
        message.start_time.CopyFrom(timestamp(job.started_at))
    if job.finished_at is not None:
        message.end_time.CopyFrom(timestamp(job.finished_at))
    return message


def timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e6) * 1000)


def error_of(job: Job) -> status_pb2.Status | None:
    """Why a job that ended made no video."""
    if job.state is State.CANCELLED:
        return status_pb2.Status(code=code_pb2.CANCELLED, message=job.error_message or "the job was cancelled")
    if job.state is State.FAILED:
        code = code_pb2.Code.Value(job.error_code or "INTERNAL")
        return status_pb2.Status(code=code, message=job.error_message or "the job failed")
    return None


def video_of(job: Job) -> video_pb2.Video | None:
    """What a job that succeeded made."""
    if job.state is not State.SUCCEEDED or job.result is None:
        return None
    result, spec = job.result, job.spec
    return video_pb2.Video(
        name=operation_name(job),
        width=result["width"],
        height=result["height"],
        native_width=spec["native_width"],
        native_height=spec["native_height"],
        frames=result["frames"],
        fps=result["fps"],
        size_bytes=result["video"]["size_bytes"],
        sha256=result["video"]["sha256"],
        mime_type=result["video"]["mime_type"],
        seed=spec["seed"],
        steps=spec["steps"],
        guidance=spec["guidance"],
        model=job.model,
    )


def operation(job: Job, ahead: Outlook) -> operations_pb2.Operation:
    """The job with its VideoMetadata, and its Video or its error once it is done."""
    message = operations_pb2.Operation(name=operation_name(job), done=job.state.final)
    message.metadata.Pack(metadata(job, ahead))
    if (error := error_of(job)) is not None:
        message.error.CopyFrom(error)
    elif (video := video_of(job)) is not None:
        message.response.Pack(video)
    return message


def model_message(card: ModelCard, ready: bool) -> video_pb2.Model:
    return video_pb2.Model(
        name=card.name,
        ready=ready,
        tasks=card.tasks,
        audio=card.audio,
        native_sizes=[video_pb2.Size(width=width, height=height) for width, height in card.native_sizes],
        size_multiple=card.size_multiple,
        fps=card.fps,
        max_frames=card.max_frames,
        max_duration_seconds=card.max_duration_seconds,
        default_steps=card.default_steps,
        default_guidance=card.default_guidance,
        default_frames=card.default_frames,
        max_prompt_chars=MAX_PROMPT_CHARS,
        max_negative_prompt_chars=MAX_NEGATIVE_CHARS,
        max_steps=MAX_STEPS,
        max_guidance=MAX_GUIDANCE,
        max_fps=MAX_FPS,
        max_seed=MAX_SEED,
    )


def watch_event(job: Job, ahead: Outlook) -> video_pb2.WatchVideoResponse:
    return video_pb2.WatchVideoResponse(
        metadata=metadata(job, ahead), done=job.state.final, error=error_of(job), video=video_of(job)
    )
