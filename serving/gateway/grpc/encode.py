"""Jobs, files and models as the API's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, status_pb2

from zoetrope.model.adapters.files.card import SHORT
from zoetrope.model.request.tasks import (
    MAX_FPS,
    MAX_GUIDANCE,
    MAX_NEGATIVE_CHARS,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    MAX_STEPS,
    PICTURE_CONTAINERS,
    Container,
    ModelCard,
)
from zoetrope.serving.api.formats import MIME_TYPES, enum_name
from zoetrope.serving.api.names import MEDIA, OPERATIONS, VIDEOS
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from zoetrope.serving.gateway.watch.outlook import Outlook
from zoetrope.serving.jobs.job import Job, Stage, State
from zoetrope.serving.jobs.media_table import Media
from zoetrope.serving.jobs.usage import estimated_cost

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
SHOWN_PROMPT_CHARS = 500  # a page of 200 jobs stays far below a message's limit


def operation_name(job: Job) -> str:
    return OPERATIONS + job.id


def video_state(job: Job) -> video_pb2.VideoState:
    return STAGES[job.stage] if job.state.public is State.RUNNING else STATES[job.state.public]


def metadata(job: Job, ahead: Outlook) -> video_pb2.VideoMetadata:
    message = video_pb2.VideoMetadata(
        state=video_state(job),
        step=job.step,
        steps=job.steps,
        queue_position=ahead.queue_position,
        eta_seconds=ahead.eta_seconds,
        eta_low_seconds=ahead.eta_low_seconds,
        eta_high_seconds=ahead.eta_high_seconds,
        model=job.model,
        create_time=timestamp(job.created_at),
        attempt=job.attempt,
        cancel_requested=job.cancel_requested,
        warnings=job.warnings,
        task=job.spec["task"]["kind"],
        labels=job.labels,
        priority=job.priority,
        verdicts=[video_pb2.Verdict(**verdict) for verdict in job.verdicts],
        notice=ahead.notice,
        prompt=job.spec["task"]["prompt"][:SHOWN_PROMPT_CHARS],
        price_gpu_seconds=job.price if job.price > 0 else None,
        used_gpu_seconds=job.used,
        estimated_cost=estimated_cost(job),
        weights=job.weights,
        adapters=map(applied_adapter, job.spec.get("adapters", ())),  # not in the specs of older jobs
    )
    for field, value in (
        ("start_time", job.started_at),
        ("end_time", job.finished_at),
        ("deadline", job.deadline_at),
        ("expire_time", job.expire_at),
    ):
        if value is not None:
            getattr(message, field).CopyFrom(timestamp(value))
    return message


def applied_adapter(use: Mapping[str, Any]) -> video_pb2.AppliedAdapter:
    """Encode a `model.request.loras.AdapterUse` as a dict."""
    return video_pb2.AppliedAdapter(
        name=use["name"], sha256=use["digest"], strength=use["strength"], strength_low=use["strength_low"]
    )


def timestamp(seconds: float) -> Timestamp:
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    return Timestamp(seconds=whole, nanos=micros * 1_000)


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
    message = video_pb2.Video(
        name=VIDEOS + job.id,
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
        task=spec["task"]["kind"],
        timings=result.get("timings", {}),
        flow_shift=spec.get("flow_shift"),  # not in the specs of older jobs
    )
    if job.expire_at is not None:
        message.expire_time.CopyFrom(timestamp(job.expire_at))
    return message


def operation(job: Job, ahead: Outlook, uri: str | None = None) -> operations_pb2.Operation:
    """The job with its VideoMetadata, and its Video or its error once it is done."""
    message = operations_pb2.Operation(name=operation_name(job), done=job.state.final)
    message.metadata.Pack(metadata(job, ahead))
    if (error := error_of(job)) is not None:
        message.error.CopyFrom(error)
    elif (video := video_of(job)) is not None:
        video.uri = uri or ""
        message.response.Pack(video)
    return message


def model_message(
    card: ModelCard, ready: bool, aliases: Sequence[str] = (), adapters: Sequence[str] = ()
) -> video_pb2.Model:
    """``adapters``: the names of those that the caller may use."""
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
        default_size=card.default_size,
        default_negative_prompt=card.default_negative_prompt,
        default_flow_shift=card.default_flow_shift,
        flow_shift_note=card.flow_shift_note,
        quantize=card.quantize,
        fused_adapters=[
            video_pb2.FusedAdapter(name=a.name, sha256=a.sha256[:SHORT], strength=a.strength, expert=a.expert)
            for a in card.adapters
        ],
        profile="" if card.profile is None else card.profile.name,
        aliases=aliases,
        adapters=adapters,
        formats=[video_pb2.VideoFormat.Value(enum_name(container)) for container in formats_of(card)],
    )


def formats_of(card: ModelCard) -> list[Container]:
    """What a model's files can be: of two given frames alone no picture can be made."""
    pictures = set(card.tasks) != {"first_last_frame"}
    return [container for container in MIME_TYPES if pictures or container not in PICTURE_CONTAINERS]


def watch_event(job: Job, ahead: Outlook, preview: video_pb2.Preview | None = None) -> video_pb2.WatchVideoResponse:
    return video_pb2.WatchVideoResponse(
        metadata=metadata(job, ahead),
        done=job.state.final,
        error=error_of(job),
        video=video_of(job),
        preview=preview,
    )


def media_file(media: Media) -> media_pb2.MediaFile:
    message = media_pb2.MediaFile(
        name=MEDIA + media.id,
        state=media_pb2.MEDIA_STATE_READY if media.state == "ready" else media_pb2.MEDIA_STATE_UPLOADING,
        size_bytes=media.size_bytes,
        received_bytes=media.received_bytes,
        sha256=media.sha256,
        filename=media.filename,
        mime_type=media.mime_type,
        create_time=timestamp(media.created_at),
        expire_time=timestamp(media.expire_at),
    )
    for field in ("kind", "width", "height", "frames", "fps", "has_audio"):
        if media.info is not None and field in media.info:
            setattr(message, field, media.info[field])
    return message
