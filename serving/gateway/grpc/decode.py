"""The API's messages as orders of the intake."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from zoetrope.model.request.tasks import Container, Fit, InvalidRequest, Quality, Violation
from zoetrope.serving.api.formats import MIME_TYPES, enum_name
from zoetrope.serving.api.names import MEDIA, OPERATIONS, VIDEOS, full_name
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from zoetrope.serving.gateway.submit.options import MAX_LABELS, Options
from zoetrope.serving.gateway.submit.submission import Submission
from zoetrope.serving.jobs.job import JobWebhook

CONTAINERS: dict[int, Container] = {
    video_pb2.VIDEO_FORMAT_UNSPECIFIED: "mp4",
    **{video_pb2.VideoFormat.Value(enum_name(container)): container for container in MIME_TYPES},
}
FITS: dict[int, Fit] = {
    video_pb2.FIT_UNSPECIFIED: "cover",
    video_pb2.FIT_COVER: "cover",
    video_pb2.FIT_CONTAIN: "contain",
}
QUALITIES: dict[int, Quality] = {
    video_pb2.QUALITY_UNSPECIFIED: "exact",
    video_pb2.QUALITY_EXACT: "exact",
    video_pb2.QUALITY_BALANCED: "balanced",
    video_pb2.QUALITY_FAST: "fast",
}
MOST_NANOS = 999_999_999
OPTIONAL_FIELDS = (
    *("duration_seconds", "frames", "fps", "steps", "guidance", "guidance_low", "flow_shift", "seed"),
    *("guidance_start", "guidance_end"),
)
# What an extension takes over from the finished video, where its spec has it.
KEPT = ("fit", "flow_shift", "sampler", "quality", "guidance_start", "guidance_end", "loras")


def order_of(request: video_pb2.CreateVideoRequest, traceparent: str | None = None) -> Submission:
    """Convert a CreateVideoRequest to a submission's values; unset fields are left out."""
    data: dict[str, Any] = {
        "model": request.model,
        "keep_latents": request.keep_latents,
        "generate_audio": request.generate_audio,
    }
    bad: list[Violation] = []
    if request.format in CONTAINERS:
        data["container"] = CONTAINERS[request.format]
    else:
        known = ", ".join(container.upper() for container in MIME_TYPES)
        bad.append(Violation("format", f"{request.format} must be one of {known}"))
    if request.fit in FITS:
        data["fit"] = FITS[request.fit]
    else:
        bad.append(Violation("fit", f"{request.fit} is not a known way, give COVER or CONTAIN"))
    if request.quality in QUALITIES:
        data["quality"] = QUALITIES[request.quality]
    else:
        bad.append(Violation("quality", f"{request.quality} must be EXACT, BALANCED or FAST"))
    kind = request.WhichOneof("task")
    if kind is not None:
        data["task"] = {"kind": kind, **_task(getattr(request, kind), bad)}
    for field in ("size", "ratio", "sampler"):
        if value := getattr(request, field):
            data[field] = value
    for field in OPTIONAL_FIELDS:
        if request.HasField(field):
            data[field] = getattr(request, field)
    if request.loras:
        data["loras"] = [_lora(lora) for lora in request.loras]
    if request.HasField("audio"):
        data["audio"] = _medium(request.audio, "audio", bad)
    options = Options(
        labels=labels_of(request.labels),
        priority=request.priority,
        deadline_at=seconds_of(request.deadline, "deadline", bad) if request.HasField("deadline") else None,
        retention_seconds=span_of(request.retention, "retention", bad) if request.HasField("retention") else None,
        webhook=_webhook(request),
        traceparent=traceparent,
    )
    return Submission(data, options, request.request_id, bad)


def extension_of(request: video_pb2.ExtendVideoRequest, job_id: str, spec: dict[str, Any]) -> Submission:
    """Convert an ExtendVideoRequest to a submission with the settings of the finished video."""
    task = {
        "kind": "image_to_video",
        "prompt": request.prompt or spec["task"]["prompt"],
        "negative_prompt": spec["task"]["negative_prompt"],
        "clip": OPERATIONS + job_id,
    }
    if request.HasField("negative_prompt"):
        task["negative_prompt"] = request.negative_prompt
    data: dict[str, Any] = {
        "task": task,
        "size": f"{spec['width']}x{spec['height']}",
        "fps": spec["fps"],
        "steps": spec["steps"],
        "guidance": spec["guidance"],
        "container": spec["container"],
        **{field: spec[field] for field in KEPT if spec.get(field) is not None},
    }
    if spec["guidance_low"] is not None and not request.HasField("guidance"):
        data["guidance_low"] = spec["guidance_low"]
    for field in ("duration_seconds", "frames", "steps", "guidance", "seed"):
        if request.HasField(field):
            data[field] = getattr(request, field)
    if not (request.HasField("duration_seconds") or request.HasField("frames")):
        data["frames"] = spec["frames"]
    options = Options(labels=labels_of(request.labels), origin={"api": "grpc", "extends": job_id})
    return Submission(data, options, request.request_id)


def name_fields(error: InvalidRequest, kind: str | None) -> InvalidRequest:
    """Return the violations with CreateVideoRequest's field names: those of the task stand below its kind."""
    named = []
    for violation in error.violations:
        field = violation.field
        if field == "container":
            field = "format"
        elif kind is not None and field.partition(".")[0] in TASK_FIELDS:
            field = f"{kind}.{field}"
        elif kind is None and field in ("prompt", "negative_prompt"):
            field = f"text_to_video.{field}"
        named.append(Violation(field, violation.description))
    return InvalidRequest(*named)


def name_batch_fields(error: InvalidRequest, kinds: Sequence[str | None]) -> InvalidRequest:
    """Return the violations of a batch: ``requests.N.field``, with the kind of each request's task."""
    named: list[Violation] = []
    for violation in error.violations:
        head, _, rest = violation.field.partition(".")
        index, _, field = rest.partition(".")
        if head == "requests" and field:
            renamed = name_fields(InvalidRequest(Violation(field, violation.description)), kinds[int(index)])
            named += [Violation(f"requests.{index}.{v.field}", v.description) for v in renamed.violations]
        else:
            named.append(violation)
    return InvalidRequest(*named)


def name_extension_fields(error: InvalidRequest) -> InvalidRequest:
    """Return the violations with ExtendVideoRequest's field names; fields that it lacks are the finished video's."""
    known = video_pb2.ExtendVideoRequest.DESCRIPTOR.fields_by_name
    found = ((v.field if v.field in known else "name", v.description) for v in error.violations)
    return InvalidRequest(*(Violation(*item) for item in found))


TASK_FIELDS = {
    field.name
    for kind in video_pb2.CreateVideoRequest.DESCRIPTOR.oneofs_by_name["task"].fields
    for field in kind.message_type.fields
}


def _task(message: Any, bad: list[Violation]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            if not field.has_presence or message.HasField(field.name):
                values[field.name] = value
        elif field.is_repeated:
            values[field.name] = [_medium(item, f"{field.name}.{i}", bad) for i, item in enumerate(value)]
        elif message.HasField(field.name):
            values[field.name] = _medium(value, field.name, bad)
    return values


def _medium(media: media_pb2.Media, field: str, bad: list[Violation]) -> str:
    """Return the reference that `serving.gateway.submit.submission` takes; inline bytes become a data: URL."""
    match media.WhichOneof("source"):
        case "name":
            return full_name(MEDIA, media.name)
        case "uri":
            return media.uri
        case "data":
            return "data:;base64," + base64.b64encode(media.data).decode()
        case "video":
            return full_name(OPERATIONS, media.video.removeprefix(VIDEOS))
    bad.append(Violation(field, "names no medium: give name, uri, data or video"))
    return "data:,"


def _lora(lora: video_pb2.Lora) -> dict[str, Any]:
    strengths = {name: getattr(lora, name) for name in ("strength", "strength_low") if lora.HasField(name)}
    return {"name": lora.name, **strengths}


def labels_of(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Convert media; too many are left as they are, because the request is refused anyway."""
    return labels if len(labels) > MAX_LABELS else dict(labels)


def _webhook(request: video_pb2.CreateVideoRequest) -> JobWebhook | None:
    if not request.HasField("webhook"):
        return None
    return JobWebhook(request.webhook.url, tuple(request.webhook.events))


def seconds_of(time: Timestamp, field: str, bad: list[Violation]) -> float:
    """Return seconds since the epoch; adds to ``bad`` if it is no valid timestamp."""
    if not 0 <= time.nanos <= MOST_NANOS:
        bad.append(Violation(f"{field}.nanos", f"{time.nanos} must be from 0 to {MOST_NANOS}"))
    return float(time.seconds + time.nanos / 1e9)


def span_of(duration: Duration, field: str, bad: list[Violation]) -> float:
    """Return seconds; adds to ``bad`` if it is no valid duration."""
    low, high = (0 if duration.seconds > 0 else -MOST_NANOS), (0 if duration.seconds < 0 else MOST_NANOS)
    if not low <= duration.nanos <= high:
        bad.append(Violation(f"{field}.nanos", f"{duration.nanos} must be from {low} to {high}"))
    return float(duration.seconds + duration.nanos / 1e9)
