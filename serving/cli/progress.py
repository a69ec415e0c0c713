"""Progress on standard error: a live bar in a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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


class ProgressView:
    """Shows one job. Use as a context manager; `update` with whatever is known."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        self._shown: tuple[str, int, str] | None = None
        if console.is_terminal:
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
        """A line that stays."""
        (self._live.console if self._live else self._console).print(f"warning: {text}")

    def message(self, text: str) -> None:
        """What is going on before there is a job."""
        if self._live:
            self._live.update(self._task, description=text)
        else:
            self._console.print(text)

    def loading(self, done: int, total: int) -> None:
        """Parameters of the model read so far; only a bar shows them."""
        if self._live:
            self._live.update(
                self._task, completed=done, total=total, detail=f"{done / 1e9:.2f} of {total / 1e9:.2f} B"
            )

    def uploading(self, what: str, sent: int, total: int) -> None:
        """Bytes of a file that the service has. May be called from any thread."""
        if self._live:
            detail = f"{sent / 1e6:.1f} of {total / 1e6:.1f} MB"
            self._live.update(self._task, description=f"uploading {what}", completed=sent, total=total, detail=detail)
        elif sent >= total:
            self._console.print(f"uploaded {what}")

    def update(
        self,
        state: str,
        step: int,
        steps: int,
        *,
        queue_position: int = 0,
        eta_seconds: float | None = None,
        attempt: int = 1,
        notice: str = "",
    ) -> None:
        """``state`` is one of `LABELS`; others are shown as they are."""
        label = LABELS.get(state, state)
        detail = describe(
            state, step, steps, queue_position=queue_position, eta_seconds=eta_seconds, attempt=attempt, notice=notice
        )
        if self._live:
            self._live.update(self._task, description=label, completed=step, total=steps or None, detail=detail)
            return
        mark = (state, step * PLAIN_LINES // steps if steps else 0, notice)
        if mark != self._shown:
            self._shown = mark
            self._console.print(f"{label} {detail}".strip())


def describe(
    state: str,
    step: int,
    steps: int,
    *,
    queue_position: int,
    eta_seconds: float | None,
    attempt: int,
    notice: str = "",
) -> str:
    """``12/30 steps, 8 s left``."""
    parts = []
    if state == "queued":
        parts.append(f"{queue_position} ahead")
    elif steps and state != "conditioning":
        parts.append(f"{step}/{steps} steps")
    if eta_seconds is not None and state in ("queued", "conditioning", "denoising", "decoding"):
        parts.append(f"{format_seconds(eta_seconds)} left")
    if attempt > 1:
        parts.append(f"attempt {attempt}")
    if notice:
        parts.append(notice)
    return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"
