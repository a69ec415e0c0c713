"""Progress on standard error: a live bar in a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import re
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LABELS = {
    "queued": "queued",
    "conditioning": "reading the prompt",
    "denoising": "denoising",
    "decoding": "decoding",
    "succeeded": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
PLAIN_LINES = 4  # while denoising, where no bar can be drawn
NUMBERS = re.compile(r"[0-9]+")  # of a notice; where they alone change it is no new one


def count_bar(console: Console, description: str, count: ProgressColumn, *, quiet: bool) -> Progress:
    """Make a bar for something other than a job; it shows nothing if ``quiet`` or where there is no terminal."""
    columns = (TextColumn(description), BarColumn(), count, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


class ProgressView:
    """Shows one job. Use it as a context manager, and `update` it with whatever is known."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        """``quiet`` shows warnings alone."""
        self._console = console
        self._quiet = quiet
        self._live: Progress | None = None
        self._shown: tuple[str, int, str] | None = None
        if console.is_terminal and not quiet:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._live.add_task("starting", total=None, detail="")

    def __enter__(self) -> ProgressView:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def warn(self, text: str) -> None:
        """Print a line that stays."""
        (self._live.console if self._live else self._console).print(f"warning: {text}")

    def message(self, text: str) -> None:
        """Show what is happening before there is a job."""
        if self._live:
            self._live.update(self._task, description=text)
        else:
            self._print(text)

    def loading(self, done: int, total: int) -> None:
        """Show the parameters of the model read so far; needs a terminal."""
        if self._live:
            self._live.update(
                self._task, completed=done, total=total, detail=f"{done / 1e9:.2f} of {total / 1e9:.2f} B"
            )

    def uploading(self, what: str, sent: int, total: int) -> None:
        """Show the bytes of a file sent so far. May be called from any thread."""
        if self._live:
            detail = f"{sent / 1e6:.1f} of {total / 1e6:.1f} MB"
            self._live.update(self._task, description=f"uploading {what}", completed=sent, total=total, detail=detail)
        elif sent >= total:
            self._print(f"uploaded {what}")

    def update(
        self,
        state: str,
        step: int,
        steps: int,
        *,
        queue_position: int = 0,
        eta_seconds: float | None = None,
        interval: tuple[float, float] | None = None,
        attempt: int = 1,
        notice: str = "",
    ) -> None:
        """Show the job's state, one of `LABELS` or another as it is."""
        label = LABELS.get(state, state)
        detail = describe(
            state,
            step,
            steps,
            queue_position=queue_position,
            eta_seconds=eta_seconds,
            interval=interval,
            attempt=attempt,
            notice=notice,
        )
        if self._live:
            self._live.update(self._task, description=label, completed=step, total=steps or None, detail=detail)
            return
        mark = (state, step * PLAIN_LINES // steps if steps else 0, NUMBERS.sub("", notice))
        if mark != self._shown:
            self._shown = mark
            self._print(f"{label} {detail}".strip())

    def _print(self, line: str) -> None:
        if not self._quiet:
            self._console.print(line)


def describe(
    state: str,
    step: int,
    steps: int,
    *,
    queue_position: int,
    eta_seconds: float | None,
    attempt: int,
    notice: str = "",
    interval: tuple[float, float] | None = None,
) -> str:
    """Describe progress: ``12/30 steps, 8 s left (7 s to 10 s)``."""
    parts = []
    if state == "queued" and "ahead" not in notice:
        parts.append(f"{queue_position} ahead")
    elif steps and state not in ("queued", "conditioning"):
        parts.append(f"{step}/{steps} steps")
    if eta_seconds is not None and state in ("queued", "conditioning", "denoising", "decoding"):
        parts.append(f"{format_seconds(eta_seconds)} left{_between(interval)}")
    if attempt > 1:
        parts.append(f"attempt {attempt}")
    if notice:
        parts.append(notice)
    return ", ".join(parts)


def _between(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    low, high = map(format_seconds, interval)
    return "" if low == high else f" ({low} to {high})"


def format_seconds(seconds: float) -> str:
    """Format a duration: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"
