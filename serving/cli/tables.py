"""Tables for standard output."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from model.tasks import ModelCard

if TYPE_CHECKING:
    from serving.cli.doctor import Check
    from serving.client import ModelInfo, OperationStatus

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "succeeded": "green", "failed": "red"}


def models_table(models: Sequence[ModelCard | ModelInfo]) -> Table:
    """Presets, or what a service serves."""
    table = plain_table("model", "ready", "tasks", "denoises at", "fps", "frames", "seconds", "steps", "guidance")
    for model in models:
        sizes = ", ".join(f"{width}x{height}" for width, height in model.native_sizes)
        ready = "-" if isinstance(model, ModelCard) else "yes" if model.ready else "no"
        table.add_row(
            escape(model.name),
            ready,
            ", ".join(model.tasks),
            sizes or f"multiples of {model.size_multiple}",
            str(model.fps),
            f"1 to {model.max_frames}",
            f"up to {model.max_duration_seconds:.4g}",
            str(model.default_steps),
            f"{model.default_guidance:g}",
        )
    return table


def jobs_table(jobs: Sequence[OperationStatus]) -> Table:
    """One line a job; times are local."""
    table = plain_table("job", "state", "step", "model", "created", "note")
    for job in jobs:
        note = f"{job.queue_position} ahead" if job.state == "queued" else job.error.message if job.error else ""
        table.add_row(
            escape(job.name.rpartition("/")[2]),
            _coloured(job.state),
            f"{job.step}/{job.steps}",
            escape(job.model),
            datetime.fromtimestamp(job.create_time).strftime("%Y-%m-%d %H:%M:%S"),
            escape(note),
        )
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """What `zoetrope doctor` found."""
    table = plain_table("check", "status", "found", "what to do")
    for check in checks:
        table.add_row(check.name, _coloured(check.status.value), escape(check.detail), escape(check.advice))
    return table


def plain_table(*columns: str) -> Table:
    """Columns without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _coloured(word: str) -> str:
    colour = COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else word
