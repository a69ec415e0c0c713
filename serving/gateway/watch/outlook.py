"""What a caller is told of a job's future: its place, how long it will take, and why it waits."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.serving.jobs.forecast_table import JobForecast
from zoetrope.serving.jobs.job import Job, Stage, State

MOVED_SECONDS, MOVED_SHARE = 1.0, 0.1  # by which an estimate must move before it is worth telling


@dataclass(frozen=True)
class Outlook:
    """How long a job will still take.

    Attributes:
        notice: why it makes no progress now.
        eta_low_seconds, eta_high_seconds: the interval of the estimate, if there is one.
        why: the kind of notice, which stays the same while only the numbers in it change.
    """

    queue_position: int
    eta_seconds: float | None
    notice: str = ""
    eta_low_seconds: float | None = None
    eta_high_seconds: float | None = None
    why: str = ""


def waits(job: Job) -> bool:
    """Tell whether the job is at a point where it may have to wait for an engine."""
    return job.state is State.QUEUED or (job.stage is Stage.DENOISING and job.step == 0)


def foreseen(job: Job, forecast: JobForecast, notice: str) -> Outlook:
    """Return the outlook of an unfinished job by its router's forecast.

    Args:
        notice: what else holds it up; it goes before what the forecast says, unless that knows of an engine to come.
    """
    why = forecast.why if waits(job) else ""
    held_up = job.notice if why == "engine" else notice
    return Outlook(
        forecast.place if job.state is State.QUEUED else 0,
        forecast.eta,
        held_up or waiting_words(why, forecast.place, forecast.start),
        forecast.low,
        forecast.high,
        held_up or why,
    )


def waiting_words(why: str, place: int, seconds: float) -> str:
    """Say why a job has not begun, ``waiting for 3 jobs ahead, about 40 s``; "" if there is nothing to say.

    Args:
        why: see `jobs.forecast_table.Why`. place: jobs ahead of it. seconds: until it begins.
    """
    about = f", about {rounded(seconds)}"
    if why == "ahead":
        ahead = "for running jobs" if place == 0 else "for 1 job ahead" if place == 1 else f"for {place} jobs ahead"
        return f"waiting {ahead}{about}"
    if why == "share":
        return f"its tenant's share is used by its other jobs{about}"
    if why == "slot":
        return f"waiting for an adapter slot{about}"
    if why == "engine":
        return "waiting for an engine to start" + (about if seconds else "")
    return ""


def rounded(seconds: float) -> str:
    """Return a duration as people say it: ``8 s``, ``40 s``, ``3 min``, ``2 h``."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 60:
        return f"{5 * round(seconds / 5)} s"
    if seconds < 5_400:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3_600)} h"


def moved(before: Outlook, after: Outlook, seconds: float) -> bool:
    """Tell whether an estimate changed by more than the ``seconds`` that passed in between."""
    if before.eta_seconds is None or after.eta_seconds is None:
        return before.eta_seconds is not after.eta_seconds
    expected = max(0.0, before.eta_seconds - seconds)
    return abs(after.eta_seconds - expected) > max(MOVED_SECONDS, MOVED_SHARE * expected)
