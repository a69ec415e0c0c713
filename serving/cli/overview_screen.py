"""The screen of `zoetrope top`: engines, queue and the jobs that wait first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from zoetrope.serving.api.names import OPERATIONS
from zoetrope.serving.cli.listing import COMMANDS
from zoetrope.serving.cli.progress import format_seconds
from zoetrope.serving.cli.tables import plain_table
from zoetrope.serving.client import EngineInfo, QueueInfo, ServiceOverview, WaitingInfo

COLOURS = {"ready": "green", "out": "red", "rebuilding": "yellow", "draining": "yellow"}


def screen(overview: ServiceOverview) -> RenderableType:
    """Lay out what a service's engines do and what waits for them."""
    parts: list[RenderableType] = [_summary(overview), Text(), _engines(overview.engines)]
    if overview.queues:
        parts += [Text(), _queues(overview.queues)]
    if overview.waiting:
        parts += [Text(), _waiting(overview.waiting)]
    return Group(*parts)


def _summary(overview: ServiceOverview) -> Text:
    ready = sum(engine.state == "ready" for engine in overview.engines)
    gpus = sum(engine.ranks for engine in overview.engines if engine.state == "ready")
    queued, running = (sum(getattr(q, name) for q in overview.queues) for name in ("queued_jobs", "running_jobs"))
    left = sum(queue.gpu_seconds for queue in overview.queues)
    return Text(
        f"{ready} of {len(overview.engines)} engines ready, {gpus} GPUs; {queued} jobs queued, {running} running,"
        f" {left:.0f} GPU-seconds left",
        style="bold",
    )


def _engines(engines: Sequence[EngineInfo]) -> Table:
    table = plain_table("engine", "model", "GPUs", "state", "step", "predicted", "tokens", "runs")
    for engine in engines:
        colour = COLOURS.get(engine.state)
        table.add_row(
            _shown(engine.name),
            _shown(engine.model),
            str(engine.ranks),
            f"[{colour}]{engine.state}[/]" if colour else engine.state,
            _milliseconds(engine.step_seconds),
            _milliseconds(engine.predicted_last_step_seconds),
            str(engine.step_tokens or ""),
            _shown("\n".join(_runs(engine)) or "nothing now"),
        )
    if not engines:
        table.add_row("none was seen lately", *[""] * 7)
    return table


def _runs(engine: EngineInfo) -> list[str]:
    lines = []
    for segment in engine.segments:
        part = f" part {segment.segment + 1}" if segment.segment else ""
        waits = "" if segment.advances else ", waits here"
        lines.append(
            f"{_short(segment.operation)}{part} step {segment.step}/{segment.steps}, {segment.tokens} tokens{waits}"
        )
    if engine.other_segments:
        lines.append(f"{engine.other_segments} of other tenants")
    return lines


def _queues(queues: Sequence[QueueInfo]) -> Table:
    table = plain_table("tenant", "model", "queued", "running", "GPU-seconds left")
    for queue in queues:
        name = "all others" if queue.others else queue.tenant or "(no key)"
        cells = (str(queue.queued_jobs), str(queue.running_jobs), f"{queue.gpu_seconds:.1f}")
        table.add_row(_shown(name), _shown(queue.model), *cells)
    return table


def _waiting(waiting: Sequence[WaitingInfo]) -> Table:
    table = plain_table("waits", "ahead", "done in", "between", "why")
    for job in waiting:
        low, high = format_seconds(job.eta_low_seconds), format_seconds(job.eta_high_seconds)
        table.add_row(
            _shown(_short(job.operation)),
            str(job.queue_position),
            format_seconds(job.eta_seconds) if job.eta_seconds else "",
            f"{low} and {high}" if job.eta_high_seconds else "",
            _shown(job.notice),
        )
    return table


def _short(operation: str) -> str:
    return operation.removeprefix(OPERATIONS)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1_000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _shown(text: str) -> str:
    """Return a text without characters that terminals obey, and without markup."""
    return escape(COMMANDS.sub("\ufffd", text))
