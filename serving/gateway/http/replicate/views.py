"""Jobs, models and files as the Replicate API shows them. Pure functions, for webhooks are rendered elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from zoetrope.model.request.tasks import MAX_EXACT, PICTURE_CONTAINERS, VideoRequest
from zoetrope.serving.api.formats import file_name
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.gateway.http.replicate import schema
from zoetrope.serving.gateway.http.replicate.catalogue import MODEL_OF_TASK, OfferedModel, makers_of
from zoetrope.serving.jobs.job import Job, Stage, State
from zoetrope.serving.jobs.media_table import Media
from zoetrope.serving.jobs.usage import usage_of

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
    *,
    output: str | None = None,
    starting: bool = False,
    notice: str = "",
) -> dict[str, Any]:
    """Show a job as a prediction.

    Args:
        base_url: of the HTTP side, without a slash at the end.
        output: takes the place of the output's URL, which is that of the route that serves the file and needs the API
            key unless it is signed.
        starting: for the answer to a create whose time to wait is over. The official client takes "processing" there
            for an end and returns an output that does not exist yet.
        notice: why the job does not progress now.
    """
    origin = job.origin if job.origin.get("api") == API else {}
    status = STATUS[job.state.public]
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
        "output": _output(job, url, output),
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


def data_prefix(mime_type: str) -> str:
    return f"data:{mime_type};base64,"


def logs(job: Job, notice: str = "") -> str:
    """Return lines of text, the last one of progress in tqdm's form, which the official client reads."""
    spec = job.spec
    length = "a picture" if spec["container"] in PICTURE_CONTAINERS else f"{spec['frames']} frames at {spec['fps']} fps"
    shift = "" if spec.get("flow_shift") is None else f", flow shift {spec['flow_shift']:g}"
    lines = [
        f"{job.model}: {spec['task']['kind']}, {spec['width']}x{spec['height']}, {length},"
        f" {spec['steps']} steps, guidance {spec['guidance']:g}{shift}, seed {spec['seed']}",
        *job.warnings,
    ]
    if job.attempt > 1:
        lines.append(f"attempt {job.attempt}: a process was lost before, the job resumes")
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
    """Reduce an input to what a job's origin keeps: without the words that the job has anyway, and without bytes."""
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
    """Leave out the bytes of data: URLs, and cut long texts."""
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


def model_view(model: OfferedModel, models: ServedModels, base_url: str) -> dict[str, Any]:
    """Show a model as Replicate's clients expect it."""
    return schema.ReplicateModel(
        url=f"{base_url}/v1/models/{model.id}",
        owner=model.owner,
        name=model.name,
        description=f"{model.description} Served by {', '.join(makers_of(model, models))}.",
        latest_version=version(model, models),
    ).model_dump()


def version(model: OfferedModel, models: ServedModels) -> schema.Version:
    """Show a model's only version."""
    return schema.Version(id=version_id(model, models), openapi_schema=model_schema(model))


def version_id(model: OfferedModel, models: ServedModels) -> str:
    """Hash the fields and the served models that make it: the id changes with either."""
    content = json.dumps([model.id, *makers_of(model, models), model_schema(model)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def model_schema(model: OfferedModel) -> dict[str, Any]:
    """Describe the model's input and output by an OpenAPI document, as Replicate's versions do."""
    inputs: list[type[BaseModel]] = [form.fields for form in model.forms]
    if model.served:
        inputs.append(VideoRequest)
    parts: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    required: list[str] = []
    for schema_of_input in (item.model_json_schema(ref_template="#/components/schemas/{model}") for item in inputs):
        parts |= schema_of_input.pop("$defs", {})
        required = schema_of_input.get("required", [])
        fields = {**schema_of_input["properties"], **fields}
    resolution = {name: value for name, value in fields["resolution"].items() if name != "default"}
    fields["resolution"] = resolution | ({} if model.resolution is None else {"default": model.resolution})
    given = {"type": "object", "title": "Input", "description": model.description, "properties": fields}
    if len(inputs) == 1:
        given["required"] = required
    output = {"type": "string", "title": "Output", "format": "uri"}
    return {
        "openapi": "3.1.0",
        "info": {"title": model.id, "version": "1"},
        "paths": {},
        "components": {"schemas": {**parts, "Input": given, "Output": output}},
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
    """Format a time, never later than the moment itself, so that a list before it or from it on is right."""
    if seconds is None:
        return None
    whole, part = divmod(seconds, 1)
    moment = datetime.fromtimestamp(whole, UTC).replace(microsecond=int(part * 1e6))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def output_name(job: Job) -> str:
    """Return the last part of the URL of a job's file."""
    return file_name(job.spec["container"])


def _output(job: Job, url: str, output: str | None) -> str | None:
    if job.state is not State.SUCCEEDED or job.result is None:
        return None
    return f"{url}/output/{output_name(job)}" if output is None else output


def _input(job: Job, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input as it was given; for jobs of other APIs, what it would have been. Numbers that JavaScript would
    round become texts, which inputs may hold too."""
    task = job.spec["task"]
    if "input" in origin:
        given = {name: _exact(value) for name, value in origin["input"].items()}
        words = {name: task[name] for name in origin.get("words", ())}  # the job has them anyway
        if isinstance(given.get("task"), Mapping):
            return given | {"task": given["task"] | words}
        return given | words
    values = {"prompt": task["prompt"], "negative_prompt": task["negative_prompt"]}
    values |= {theirs: _exact(job.spec.get(ours)) for ours, theirs in INPUT_OF_SPEC.items()}  # older specs lack some
    values = {name: value for name, value in values.items() if value is not None}
    return values | {"size": f"{job.spec['width']}*{job.spec['height']}", "num_frames": job.spec["frames"]}


def _exact(value: Any) -> Any:
    large = isinstance(value, int) and abs(value) > MAX_EXACT
    return str(value) if large else value


def _metrics(job: Job) -> dict[str, float]:
    metrics = usage_of(job)
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
