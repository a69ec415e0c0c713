"""What the listings show."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.api.names import OPERATIONS
from zoetrope.serving.cli.listing import Listing
from zoetrope.serving.cli.progress import format_seconds

if TYPE_CHECKING:
    from zoetrope.serving.cli.doctor import Check
    from zoetrope.serving.client import MediaFile, ModelInfo, OperationStatus, VideoEvent
    from zoetrope.serving.config.settings import Settings
    from zoetrope.serving.jobs.adapter_table import Adapter
    from zoetrope.serving.jobs.key_table import ApiKey

PASSWORD = re.compile(r"(://[^/@:]*:|[?&]password=)[^@&/]*")
SHORT_CHARS = 24  # of a negative prompt
PROMPT_CHARS = 60  # of the prompt of a job in a list
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "succeeded": "green", "failed": "red"}


def models_listing(models: Sequence[ModelCard | ModelInfo]) -> Listing:
    """Show presets, or the models of a service, with profiles, quantised weights, adapters and other names where there
    are any."""
    columns = (
        *("model", "ready", "tasks", "size", "denoises at", "fps", "frames", "seconds", "steps", "guidance"),
        *("flow shift", "negative prompt"),
    )
    others = {
        "profile": [escape(_profile(model)) for model in models],
        "weights": ["" if model.quantize == "none" else model.quantize for model in models],
        "fused": [_adapters(model) for model in models],
        "adapters": ["" if isinstance(model, ModelCard) else escape(", ".join(model.adapters)) for model in models],
        "other names": ["" if isinstance(model, ModelCard) else escape(", ".join(model.aliases)) for model in models],
    }
    named = tuple(title for title, cells in others.items() if any(cells))
    return Listing(
        (*columns, *named),
        rows=[(*_model_row(model), *(others[title][i] for title in named)) for i, model in enumerate(models)],
        items=models,
        names=[model.name for model in models],
        wraps=("tasks", "denoises at", "flow shift", "negative prompt", *named),
    )


def _model_row(model: ModelCard | ModelInfo) -> tuple[str, ...]:
    sizes = ", ".join(f"{width}x{height}" for width, height in model.native_sizes)
    return (
        escape(model.name),
        "-" if isinstance(model, ModelCard) else "yes" if model.ready else "no",
        ", ".join(model.tasks),
        model.default_size,
        sizes or f"multiples of {model.size_multiple}",
        str(model.fps),
        f"1 to {model.max_frames}",
        f"up to {model.max_duration_seconds:.4g}",
        str(model.default_steps),
        f"{model.default_guidance:g}",
        _flow_shift(model),
        escape(_shortened(model.default_negative_prompt, SHORT_CHARS)),
    )


def _adapters(model: ModelCard | ModelInfo) -> str:
    """Show the adapters that are a part of the weights: their strengths where these are not 1, and noise experts."""
    shown = []
    for adapter in model.adapters if isinstance(model, ModelCard) else model.fused_adapters:
        strength = "" if adapter.strength == 1 else f" x {adapter.strength:g}"
        shown.append(adapter.name + strength + ("" if adapter.expert == "any" else f" ({adapter.expert})"))
    return escape(", ".join(shown))


def _profile(model: ModelCard | ModelInfo) -> str:
    """Return the name of its profile; "" if it has none."""
    if isinstance(model, ModelCard):
        return "" if model.profile is None else model.profile.name
    return model.profile


def _flow_shift(model: ModelCard | ModelInfo) -> str:
    """Show the default, and its origin if known."""
    if model.default_flow_shift is None:
        return "-"
    note = f" ({model.flow_shift_note})" if model.flow_shift_note else ""
    return escape(f"{model.default_flow_shift:g}{note}")


def _shortened(text: str, chars: int) -> str:
    """Return the text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= chars else line[: chars - 3] + "..."


def jobs_listing(jobs: Sequence[OperationStatus]) -> Listing:
    """Show one line per job; times are local."""
    return Listing(
        ("job", "state", "step", "task", "prompt", "model", "created", "GPU-s", "note"),
        rows=[_job_row(job) for job in jobs],
        items=[_without_preview(job) for job in jobs],
        names=[job.name.removeprefix(OPERATIONS) for job in jobs],
        cut="prompt",
        optional=("GPU-s", "model", "created", "step"),
        below="note",
    )


def _job_row(job: OperationStatus) -> tuple[str, ...]:
    note = job.error.message if job.error else ""
    if job.state == "queued" and "ahead" not in job.notice:
        note = f"{job.queue_position} ahead"
    foreseen = not job.done and job.eta_seconds is not None and job.eta_low_seconds is not None  # by a router
    left = f"{format_seconds(job.eta_seconds or 0.0)} left" if foreseen else ""
    return (
        escape(job.name.removeprefix(OPERATIONS)),
        _coloured(job.state),
        f"{job.step}/{job.steps}",
        job.task,
        escape(_shortened(job.prompt, PROMPT_CHARS)),
        escape(job.model),
        _local(job.create_time),
        _gpu_seconds(job),
        escape(", ".join(filter(None, (note, left, job.notice)))),
    )


def _gpu_seconds(job: OperationStatus) -> str:
    """Show what a job has used of its price."""
    price = "" if job.price_gpu_seconds is None else f" of {job.price_gpu_seconds:.4g}"
    return f"{job.used_gpu_seconds:.4g}{price}" if price or job.used_gpu_seconds else ""


def _without_preview(job: OperationStatus) -> dict[str, Any]:
    """Return the fields of a job for JSON; a list has no pictures."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job) if field.name != "preview"}
    error = None if job.error is None else {"code": job.error.code, "message": job.error.message}
    return {**fields, "error": error}


def checks_listing(checks: Sequence[Check]) -> Listing:
    """Show the results of `zoetrope doctor`."""
    return Listing(
        ("check", "status", "found", "what to do"),
        rows=[(c.name, _coloured(c.status.value), escape(c.detail), escape(c.advice)) for c in checks],
        items=checks,
        names=[check.name for check in checks],
        wraps=("found",),
        below="what to do",
    )


def events_listing(events: Sequence[VideoEvent]) -> Listing:
    """Show a job's changes of state, oldest first; times are local."""
    rows = [(_local(e.time), e.from_state, e.to_state, e.actor, str(e.attempt), e.note) for e in events]
    return Listing(
        ("time", "from", "to", "by", "attempt", "note"),
        rows=[tuple(map(escape, row)) for row in rows],
        items=events,
        names=(),
        wraps=("note",),
        below="note",
    )


def media_listing(media: Sequence[MediaFile]) -> Listing:
    """Show uploaded files; times are local."""
    return Listing(
        ("name", "kind", "size", "length", "bytes", "file", "kept until"),
        rows=[_media_row(file) for file in media],
        items=media,
        names=[file.name for file in media],
        cut="file",
        optional=("kept until", "length"),
    )


def _media_row(file: MediaFile) -> tuple[str, ...]:
    return (
        escape(file.name),
        file.kind if file.ready else "uploading",
        f"{file.width}x{file.height}" if file.width else "",
        f"{file.frames / file.fps:.1f} s" if file.kind == "clip" and file.fps else "",
        str(file.size_bytes) if file.ready else f"{file.received_bytes} of {file.size_bytes}",
        escape(" ".join(file.filename.split())),
        _local(file.expire_time),
    )


def keys_listing(keys: Sequence[ApiKey]) -> Listing:
    """Show API keys, oldest first; times are local. Empty means no limit; results are in bytes."""
    columns = (
        *("id", "name", "tenant", "created", "revoked", "rate", "burst", "jobs", "seconds", "results", "models"),
        "priority",
    )
    return Listing(
        columns,
        rows=[_key_row(key) for key in keys],
        items=[_key_item(key) for key in keys],
        names=[key.id for key in keys],
        wraps=("models",),
    )


def _key_row(key: ApiKey) -> tuple[str, ...]:
    limits = key.limits
    optional = (limits.requests_per_second, limits.concurrent_jobs, limits.queued_seconds, limits.result_bytes)
    rate, jobs, seconds, results = ("" if value is None else f"{value:.15g}" for value in optional)
    return (
        key.id,
        escape(key.name),
        escape(key.owner),
        _local(key.created_at),
        "" if key.revoked_at is None else _local(key.revoked_at),
        rate,
        str(limits.burst),
        jobs,
        seconds,
        results,
        escape(", ".join(limits.models or ())),
        f"up to {limits.max_priority}",
    )


def _key_item(key: ApiKey) -> Mapping[str, Any]:
    times = {"created_at": key.created_at, "revoked_at": key.revoked_at}
    return {"id": key.id, "name": key.name, "tenant": key.owner, **times, **dataclasses.asdict(key.limits)}


def adapters_listing(adapters: Sequence[Adapter]) -> Listing:
    """Show registered adapters, by name; times are local."""
    return Listing(
        ("name", "model", "rank", "megabytes", "registered", "tenants"),
        rows=[
            (
                escape(adapter.name),
                escape(adapter.model),
                str(adapter.rank),
                f"{adapter.size_bytes / 1e6:.1f}",
                _local(adapter.created_at),
                "all" if adapter.tenants is None else escape(", ".join(map(repr, adapter.tenants))),
            )
            for adapter in adapters
        ],
        items=adapters,
        names=[adapter.name for adapter in adapters],
        wraps=("tenants",),
    )


def settings_listing(settings: Settings) -> Listing:
    """Show every setting with its variable; passwords in URLs are masked."""
    from zoetrope.serving.config.forms import form_of, shown

    rows = []
    for name, field in type(settings).model_fields.items():
        value = PASSWORD.sub(r"\1***", shown(getattr(settings, name)))
        rows.append((f"ZOETROPE_{name.upper()}", value, form_of(name, field), field.description or ""))
    keys = ("variable", "value", "form", "meaning")
    return Listing(
        keys,
        rows=[tuple(map(escape, row)) for row in rows],
        items=[dict(zip(keys, row, strict=True)) for row in rows],
        names=[row[0] for row in rows],
        wraps=("form",),
        below="meaning",
    )


def plain_table(*columns: str) -> Table:
    """Make a small table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _local(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def _coloured(word: str) -> str:
    colour = COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else word
