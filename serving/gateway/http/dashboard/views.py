"""What the dashboard says of the model, of engines, of jobs and of files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zoetrope.model.request.sizes import RATIOS, SIZES
from zoetrope.model.request.tasks import (
    MAX_FPS,
    MAX_GUIDANCE,
    MAX_NEGATIVE_CHARS,
    MAX_PROMPT_CHARS,
    MAX_STEPS,
    MEDIA_FIELDS,
    PANELS,
    PICTURE_CONTAINERS,
    PROMPT_REQUIRED,
    TASKS,
    ModelCard,
)
from zoetrope.serving.api.formats import MIME_TYPES
from zoetrope.serving.api.names import MEDIA
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.overview import Overview, step_figures
from zoetrope.serving.gateway.http.dashboard import schema
from zoetrope.serving.gateway.watch.outlook import Outlook
from zoetrope.serving.jobs.job import EngineRow, Job, State
from zoetrope.serving.jobs.media_table import Media

SHOWN_CHARS = 80  # of a prompt, beside an engine


def model_form(card: ModelCard, settings: Settings) -> schema.ModelForm:
    """Return what a form for the model offers."""
    return schema.ModelForm(
        name=card.name,
        tasks=[_task_form(task, card) for task in TASKS if task.model_fields["kind"].default in card.tasks],
        sizes=SIZES,
        ratios=list(RATIOS),
        default_size=card.default_size,
        native_sizes=list(card.native_sizes),
        size_multiple=card.size_multiple,
        fps=card.fps,
        max_fps=MAX_FPS,
        default_seconds=card.default_frames / card.fps,
        max_seconds=card.max_duration_seconds,
        default_steps=card.default_steps,
        max_steps=MAX_STEPS,
        default_guidance=card.default_guidance,
        max_guidance=MAX_GUIDANCE,
        two_experts=card.boundary is not None,
        default_guidance_low=card.default_guidance_low,
        default_flow_shift=card.default_flow_shift,
        default_negative_prompt=card.default_negative_prompt,
        max_prompt_chars=MAX_PROMPT_CHARS,
        max_negative_prompt_chars=MAX_NEGATIVE_CHARS,
        generates_audio=card.audio,
        formats=list(MIME_TYPES),
        picture_formats=list(PICTURE_CONTAINERS),
        max_upload_bytes=settings.max_upload_bytes,
        retention_seconds=settings.retention_seconds,
    )


def _task_form(task: Any, card: ModelCard) -> schema.TaskForm:
    kind = task.model_fields["kind"].default
    slots = []
    for name, field in task.model_fields.items():
        if name not in MEDIA_FIELDS:
            continue
        known = MEDIA_FIELDS[name]
        most = None
        if known.many:
            most = next((mark.max_length for mark in field.metadata if hasattr(mark, "max_length")), PANELS)
        wanted = known.takes.kind
        if name == "references":
            most = min(most or 0, card.max_references)
            wanted = wanted if card.reference_clips else "image"
        longest = known.takes.max_seconds
        slots.append(
            schema.MediaSlot(
                name=name,
                kind=wanted,
                required=field.is_required(),
                most=most,
                min_seconds=known.takes.min_seconds,
                max_seconds=longest if math.isfinite(longest) else None,
            )
        )
    switches: list[Any] = [name for name in ("loop", "keep_audio") if name in task.model_fields]
    if not card.ends_with_frame and "loop" in switches:
        switches.remove("loop")
    return schema.TaskForm(kind=kind, prompt_required=kind in PROMPT_REQUIRED, media=slots, switches=switches)


def engine_view(engine: EngineRow, jobs: Mapping[str, Job], who: Principal) -> schema.DashboardEngine:
    """Show an engine and the caller's own jobs on it.

    Args:
        jobs: those that engines run, by id.
    """
    found = [jobs[job_id] for job_id in engine.jobs if job_id in jobs]
    mine = [job for job in found if job.owner == who.owner]
    figures = step_figures(engine)
    return schema.DashboardEngine(
        id=engine.id,
        model=engine.model,
        state=engine.state,
        ranks=engine.ranks,
        gang_epoch=engine.gang_epoch,
        restarts=engine.restarts,
        jobs=[
            schema.RunningJob(
                id=job.id, prompt=job.spec["task"]["prompt"][:SHOWN_CHARS], step=job.step, steps=job.steps
            )
            for job in mine
        ],
        others=len(found) - len(mine),
        step_tokens=figures["tokens"],
        step_seconds=figures["seconds"],
        expected_step_seconds=figures["expected"],
    )


def queue_view(seen: Overview) -> schema.DashboardQueue:
    """Show the queue by tenant, and the jobs that wait first."""
    return schema.DashboardQueue(
        queues=[
            schema.QueueShare(
                model=item.model,
                tenant=item.tenant,
                others=item.others,
                queued=item.queue.queued,
                running=item.queue.running,
                gpu_seconds=item.queue.gpu_seconds,
            )
            for item in seen.queues
        ],
        waiting=[
            schema.WaitingJob(
                id=job.id,
                prompt=job.spec["task"]["prompt"][:SHOWN_CHARS],
                queue_position=ahead.queue_position,
                eta_seconds=ahead.eta_seconds,
                notice=ahead.notice,
            )
            for job, ahead in seen.waiting
        ],
    )


def job_view(job: Job, ahead: Outlook, download: str | None = None) -> dict[str, Any]:
    """Show a job as a card does, see `schema.JobView`."""
    task = job.spec["task"]
    return {
        "id": job.id,
        "state": str(job.state.public),
        "stage": None if job.stage is None else str(job.stage),
        "task": task["kind"],
        "prompt": task["prompt"],
        "size": f"{job.spec['width']}x{job.spec['height']}",
        "seconds": job.spec["frames"] / job.spec["fps"],
        "seed": str(job.spec["seed"]),
        "container": job.spec["container"],
        "step": job.step,
        "steps": job.steps,
        "queue_position": ahead.queue_position,
        "eta_seconds": ahead.eta_seconds,
        "eta_low_seconds": ahead.eta_low_seconds,
        "eta_high_seconds": ahead.eta_high_seconds,
        "notice": ahead.notice,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "expire_at": job.expire_at,
        "cancel_requested": job.cancel_requested,
        "error": job.error_message,
        "error_code": job.error_code,
        "warnings": list(job.warnings),
        "preview": None if job.preview is None else job.preview.step,
        "video": job.state is State.SUCCEEDED,
        "download": download,
    }


def job_details(job: Job, ahead: Outlook, card: ModelCard, download: str | None) -> dict[str, Any]:
    """Show a job and what was asked for, see `schema.JobDetails`."""
    result = job.result or {}
    return {
        **job_view(job, ahead, download),
        "request": {**request_of(job, card).model_dump(exclude_none=True), "seed": str(job.spec["seed"])},
        "labels": job.labels,
        "api": str(job.origin.get("api", "grpc")),
        "timings": result.get("timings") or {},
        "size_bytes": result["video"]["size_bytes"] if result else None,
    }


# How a clip was sampled, beside the fields that all jobs have.
SAMPLING = ("sampler", "quality", "guidance_start", "guidance_end", "loras")


def request_of(job: Job, card: ModelCard) -> schema.NewVideo:
    """Return the request that makes a job's video again; what is the model's default stays one."""
    spec, task = job.spec, dict(job.spec["task"])
    for name in MEDIA_FIELDS:
        value = task.get(name)
        task[name] = [MEDIA + item for item in value] if isinstance(value, list) else value and MEDIA + value
    if task["negative_prompt"] == card.default_negative_prompt:
        del task["negative_prompt"]
    audio = None if task.get("keep_audio") or spec.get("audio") is None else MEDIA + spec["audio"]
    seed = spec["seed"]
    names = ("fit", "frames", "fps", "steps", "guidance", "guidance_low", "flow_shift", "container", *SAMPLING)
    return schema.NewVideo(
        task=task.pop("kind"),
        model=job.model,
        **{name: value for name, value in task.items() if value not in (None, [], False)},
        size=f"{spec['width']}x{spec['height']}",
        audio=audio,
        seed=seed,
        **{name: spec.get(name) for name in names},
    )


def file_view(media: Media) -> dict[str, Any]:
    """Show a file that is ready, see `schema.FileView`."""
    info = media.info or {}
    sound = "channels" in info
    seconds = info["seconds"] if sound else info["frames"] / info["fps"] if info["fps"] else 0.0
    return {
        "name": MEDIA + media.id,
        "kind": "sound" if sound else info["kind"],
        "filename": media.filename or "",
        "mime_type": media.mime_type or "",
        "size_bytes": media.size_bytes or 0,
        "width": info.get("width"),
        "height": info.get("height"),
        "seconds": seconds,
        "has_audio": sound or info["has_audio"],
        "expire_at": media.expire_at,
    }
