"""Tables for standard output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from model.tasks import ModelCard

if TYPE_CHECKING:
    from serving.cli.doctor import Check
    from serving.client import MediaFile, ModelInfo, OperationStatus, VideoEvent
    from serving.jobs.key_table import ApiKey
    from serving.settings import Settings

PASSWORD = re.compile(r"(://[^/@:]*:|[?&]password=)[^@&/]*")
SHORT_CHARS = 24  # of a negative prompt
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "succeeded": "green", "failed": "red"}


def models_table(models: Sequence[ModelCard | ModelInfo]) -> Table:
    """Presets, or what a service serves."""
    table = plain_table(
        *("model", "ready", "tasks", "size", "denoises at", "fps", "frames", "seconds", "steps", "guidance"),
        *("flow shift", "negative prompt"),
    )
    for model in models:
        sizes = ", ".join(f"{width}x{height}" for width, height in model.native_sizes)
        ready = "-" if isinstance(model, ModelCard) else "yes" if model.ready else "no"
        table.add_row(
            escape(model.name),
            ready,
            ", ".join(model.tasks),
            model.default_size,
            sizes or f"multiples of {model.size_multiple}",
            str(model.fps),
            f"1 to {model.max_frames}",
            f"up to {model.max_duration_seconds:.4g}",
            str(model.default_steps),
            f"{model.default_guidance:g}",
            _flow_shift(model),
            escape(_shortened(model.default_negative_prompt)),
        )
    return table


def _flow_shift(model: ModelCard | ModelInfo) -> str:
    """The default, and where it is from where that is said."""
    if model.default_flow_shift is None:
        return "-"
    note = f" ({model.flow_shift_note})" if model.flow_shift_note else ""
    return escape(f"{model.default_flow_shift:g}{note}")


def _shortened(text: str) -> str:
    return text if len(text) <= SHORT_CHARS else text[: SHORT_CHARS - 3] + "..."


def jobs_table(jobs: Sequence[OperationStatus]) -> Table:
    """One line a job; times are local."""
    table = plain_table("job", "state", "step", "model", "created", "note")
    for job in jobs:
        note = f"{job.queue_position} ahead" if job.state == "queued" else job.error.message if job.error else ""
        note = ", ".join(filter(None, (note, job.notice)))
        table.add_row(
            escape(job.name.rpartition("/")[2]),
            _coloured(job.state),
            f"{job.step}/{job.steps}",
            escape(job.model),
            _local(job.create_time),
            escape(note),
        )
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """What `zoetrope doctor` found."""
    table = plain_table("check", "status", "found", "what to do")
    for check in checks:
        table.add_row(check.name, _coloured(check.status.value), escape(check.detail), escape(check.advice))
    return table


def events_table(events: Sequence[VideoEvent]) -> Table:
    """A job's audit trail, oldest first; times are local."""
    table = plain_table("time", "from", "to", "by", "attempt", "note")
    for event in events:
        row = (_local(event.time), event.from_state, event.to_state, event.actor, str(event.attempt), event.note)
        table.add_row(*map(escape, row))
    return table


def media_table(media: Sequence[MediaFile]) -> Table:
    """Uploaded files; times are local."""
    table = plain_table("name", "kind", "size", "length", "bytes", "file", "kept until")
    for file in media:
        uploading = f"{file.received_bytes} of {file.size_bytes}"
        seconds = f"{file.frames / file.fps:.1f} s" if file.kind == "clip" and file.fps else ""
        table.add_row(
            escape(file.name),
            file.kind if file.ready else "uploading",
            f"{file.width}x{file.height}" if file.width else "",
            seconds,
            str(file.size_bytes) if file.ready else uploading,
            escape(file.filename),
            _local(file.expire_time),
        )
    return table


def keys_table(keys: Sequence[ApiKey]) -> Table:
    """API keys, oldest first; times are local. What is empty has no limit; results are bytes."""
    table = plain_table(
        *("id", "name", "tenant", "created", "revoked", "rate", "burst", "jobs", "seconds", "results", "models"),
        "priority",
    )
    for key in keys:
        limits = key.limits
        optional = (limits.requests_per_second, limits.concurrent_jobs, limits.queued_seconds, limits.result_bytes)
        rate, jobs, seconds, results = ("" if value is None else f"{value:.15g}" for value in optional)
        table.add_row(
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
    return table


def settings_table(settings: Settings) -> Table:
    """Every setting with its variable; passwords in addresses are left out."""
    table = plain_table("variable", "value", "meaning")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        text = "" if value is None else " ".join(value) if isinstance(value, tuple) else str(value)
        shown = PASSWORD.sub(r"\1***", text)
        table.add_row(f"ZOETROPE_{name.upper()}", escape(shown), escape(field.description or ""))
    return table


def plain_table(*columns: str) -> Table:
    """Columns without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _local(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def _coloured(word: str) -> str:
    colour = COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else word
