"""Jobs, models and files as the Replicate face shows them. Pure functions: webhooks use them in another process."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from model.tasks import MAX_EXACT, PICTURE_CONTAINERS, ModelCard, VideoRequest
from serving.api.formats import file_name
from serving.gateway.http.replicate_inputs import MODEL_OF_TASK, OWNER, FaceModel
from serving.jobs.job import Job, Stage, State
from serving.jobs.media_table import Media

API = "replicate"
VERSION = "hidden"  # as Replicate has it for models that are asked for by name alone
STATUS = {
    State.QUEUED: "starting",
    State.RUNNING: "processing",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "canceled",
}
BAR = 10  # characters of a progress bar
MAX_ECHO_CHARS = 1_000  # of one text of an input, but for prompts
INPUT_OF_SPEC = {
    "seed": "seed",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "flow_shift": "flow_shift",
    "fit": "fit",
    "container": "output_format",
}


def prediction(
    job: Job,
    base_url: str,
    output_data: bytes | None = None,
    *,
    output: str | None = None,
    starting: bool = False,
    notice: str = "",
) -> dict[str, Any]:
    """The prediction that a job is.

    Args:
        base_url: of the HTTP side, without a slash at the end.
        output_data: the file, to be put into ``output`` as a data: address; ``output`` is otherwise the address of the
            route that serves it, which wants the API key.
        output: what to put there in place of either.
        starting: for the answer to a create whose time to wait is over. The official client takes "processing" there
            for an end and gives back the output that is not yet.
        notice: why it does not go on now.
    """
    origin = job.origin if job.origin.get("api") == API else {}
    status = STATUS[job.state]
    if starting and not job.state.final:
        status = "starting"
    overdue = job.state is State.FAILED and job.error_code == "DEADLINE_EXCEEDED" and "cancel_after" in origin
    if overdue:
        status = "canceled"  # what a Cancel-After leads to
    url = f"{base_url}/v1/predictions/{job.id}"
    return {
        "id": job.id,
        "model": origin.get("model") or MODEL_OF_TASK[job.spec["task"]["kind"]].id,
        "version": origin.get("version") or VERSION,
        "status": status,
        "input": _input(job, origin),
        "output": _output(job, url, output_data, output),
        "logs": logs(job, notice),
        "error": (job.error_message or "the job failed") if job.state is State.FAILED and not overdue else None,
        "metrics": _metrics(job),
        "created_at": iso_time(job.created_at),
        "started_at": iso_time(job.started_at),
        "completed_at": iso_time(job.finished_at),
        "deadline": iso_time(job.deadline_at),
        "data_removed": False,
        "source": "api",
        "urls": {"get": url, "cancel": f"{url}/cancel"},
    }


def data_address(mime_type: str, data: bytes) -> str:
    return f"{data_prefix(mime_type)}{base64.b64encode(data).decode()}"


def data_prefix(mime_type: str) -> str:
    return f"data:{mime_type};base64,"


def logs(job: Job, notice: str = "") -> str:
    """Lines of text, the last one of progress in tqdm's form, which the official client reads."""
    spec = job.spec
    length = "a picture" if spec["container"] in PICTURE_CONTAINERS else f"{spec['frames']} frames at {spec['fps']} fps"
    shift = "" if spec.get("flow_shift") is None else f", flow shift {spec['flow_shift']:g}"
    lines = [
        f"{job.model}: {spec['task']['kind']}, {spec['width']}x{spec['height']}, {length},"
        f" {spec['steps']} steps, guidance {spec['guidance']:g}{shift}, seed {spec['seed']}",
        *job.origin.get("notes", ()),
        *job.warnings,
    ]
    if job.attempt > 1:
        lines.append(f"attempt {job.attempt}: a process was lost before, the job goes on")
    if job.state is State.QUEUED:
        lines.append("queued")
    if notice:
        lines.append(notice)
    if job.started_at is not None:
        lines.append(progress_bar(job.step, job.steps))
    if job.state is State.RUNNING and job.stage is not Stage.DENOISING and job.stage is not None:
        lines.insert(-1, str(job.stage))
    return "\n".join(lines) + "\n"


def progress_bar(step: int, steps: int) -> str:
    share = min(1.0, step / steps) if steps else 1.0
    full = int(share * BAR)
    return f"{int(share * 100):3d}%|{'#' * full}{' ' * (BAR - full)}| {step}/{steps}"


def echo(given: Mapping[str, Any], expanded: bool) -> dict[str, Any]:
    """An input as a job's origin keeps it: without the words that the job has anyway, and without bytes."""
    own = given.get("task")
    if isinstance(own, Mapping):
        words = [name for name in ("prompt", "negative_prompt") if own.get(name) is not None]
        kept = {**given, "task": {name: value for name, value in own.items() if name not in words}}
    else:
        words = [name for name in ("prompt", "negative_prompt") if given.get(name) is not None]
        if expanded:
            words.remove("prompt")
        kept = {name: value for name, value in given.items() if name not in words}
    prompt = {"prompt": given["prompt"]} if expanded else {}
    return {"input": {**abridged(kept), **prompt}, "words": words}


def abridged(value: Any) -> Any:
    """Without the bytes of data: addresses; long texts cut."""
    if isinstance(value, Mapping):
        return {str(key): abridged(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [abridged(item) for item in value]
    if isinstance(value, str) and value.startswith("data:"):
        head, _, body = value.partition(",")
        return f"{head[:100]},...({len(body)} characters)"
    if isinstance(value, str) and len(value) > MAX_ECHO_CHARS:
        return value[:MAX_ECHO_CHARS] + "..."
    return value


def model(face: FaceModel, card: ModelCard, base_url: str) -> dict[str, Any]:
    return {
        "url": f"{base_url}/v1/models/{face.id}",
        "owner": OWNER,
        "name": face.name,
        "description": f"{face.description} Served by {card.name}.",
        "visibility": "public",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version(face, card),
    }


def version(face: FaceModel, card: ModelCard) -> dict[str, Any]:
    return {
        "id": version_id(face, card),
        # Clients want to see both, and a version that is computed has neither.
        "created_at": iso_time(0.0),
        "cog_version": "0.0.0",
        "openapi_schema": model_schema(face),
    }


def version_id(face: FaceModel, card: ModelCard) -> str:
    """The same for the same fields and the same served model."""
    content = json.dumps([face.id, card.name, model_schema(face)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def model_schema(face: FaceModel) -> dict[str, Any]:
    """An OpenAPI document of the model's input and output, as Replicate's versions have one."""
    fields = face.input.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = fields.pop("$defs", {})
    if face.input is VideoRequest:
        fields["description"] = "The service's own fields; task.kind chooses the task."
    output = {"type": "string", "title": "Output", "format": "uri"}
    return {
        "openapi": "3.1.0",
        "info": {"title": face.id, "version": "1"},
        "paths": {},
        "components": {"schemas": {**parts, "Input": {**fields, "title": "Input"}, "Output": output}},
    }


def file(media: Media, base_url: str) -> dict[str, Any]:
    sha256 = media.sha256 or ""
    return {
        "id": media.id,
        "name": media.filename or media.id,
        "content_type": media.mime_type or "application/octet-stream",
        "size": media.size_bytes or 0,
        "etag": sha256,
        "checksums": {"sha256": sha256},
        "metadata": {},
        "created_at": iso_time(media.created_at),
        "expires_at": iso_time(media.expire_at),
        "urls": {"get": f"{base_url}/v1/files/{media.id}", "download": f"{base_url}/v1/files/{media.id}/download"},
    }


def iso_time(seconds: float | None) -> str | None:
    """Never later than the moment itself, so that a list before it or from it on is right."""
    if seconds is None:
        return None
    whole, part = divmod(seconds, 1)
    moment = datetime.fromtimestamp(whole, UTC).replace(microsecond=int(part * 1e6))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def output_name(job: Job) -> str:
    """The last part of the address of a job's file."""
    return file_name(job.spec["container"])


def _output(job: Job, url: str, data: bytes | None, output: str | None) -> str | None:
    if job.state is not State.SUCCEEDED or job.result is None:
        return None
    if output is not None:
        return output
    if data is not None:
        return data_address(job.result["video"]["mime_type"], data)
    return f"{url}/output/{output_name(job)}"


def _input(job: Job, origin: Mapping[str, Any]) -> dict[str, Any]:
    """As it was given; of jobs that came another way, what it would have been. Numbers that JavaScript would round are
    texts, which inputs may have too."""
    task = job.spec["task"]
    if "input" in origin:
        given = {name: _exact(value) for name, value in origin["input"].items()}
        words = {name: task[name] for name in origin.get("words", ())}  # the job has them anyway
        if isinstance(given.get("task"), Mapping):
            return given | {"task": given["task"] | words}
        return given | words
    values = {"prompt": task["prompt"], "negative_prompt": task["negative_prompt"]}
    values |= {face: _exact(job.spec.get(ours)) for ours, face in INPUT_OF_SPEC.items()}  # older specs lack some
    values = {name: value for name, value in values.items() if value is not None}
    return values | {"size": f"{job.spec['width']}*{job.spec['height']}", "num_frames": job.spec["frames"]}


def _exact(value: Any) -> Any:
    large = isinstance(value, int) and abs(value) > MAX_EXACT
    return str(value) if large else value


def _metrics(job: Job) -> dict[str, float]:
    metrics: dict[str, float] = {}
    end = job.finished_at
    if end is None:
        return metrics
    if job.started_at is not None:
        metrics["predict_time"] = max(0.0, end - job.started_at)
    metrics["total_time"] = max(0.0, end - job.created_at)
    if job.state is State.SUCCEEDED and job.result is not None:
        if job.spec["container"] in PICTURE_CONTAINERS:
            metrics["image_count"] = 1
        else:
            metrics["video_output_duration_seconds"] = job.result["frames"] / job.result["fps"]
        metrics |= {f"{stage}_seconds": seconds for stage, seconds in job.result.get("timings", {}).items()}
    return metrics
