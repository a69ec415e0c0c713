"""Tells jobs that no engine has their model yet, and when one is expected to."""

from __future__ import annotations

import math
from collections.abc import Callable

from zoetrope.serving.jobs.job import Job
from zoetrope.serving.router.active import job_of
from zoetrope.serving.router.state import RouterState

SECONDS = 1.0  # between two looks


class ModelNotices:
    """Keeps what was told, so that only news is written."""

    def __init__(self, state: RouterState, job: Callable[[str], Job | None], say: Callable[[Job, str], None]) -> None:
        """
        Args:
            job: finds a claimed job by its id. say: tells a job why it waits; "" when it goes on.
        """
        self._state = state
        self._job = job
        self._say = say
        self._told: dict[str, str] = {}  # by job
        self._looked_at = -math.inf

    def look(self, now: float) -> None:
        """Tell the jobs whose notice has changed, once a second at the most."""
        if self._state.loading is None or now < self._looked_at + SECONDS:
            return
        self._looked_at = now
        waiting = {job_of(i): s.model for i, s in self._state.active.items() if s.engine is None}
        notices = {model: self._state.notice(model, now) for model in set(waiting.values())}
        fresh = {job_id: notice for job_id, model in waiting.items() if (notice := notices[model])}
        for job_id in fresh.keys() | self._told.keys():
            notice = fresh.get(job_id, "")
            if notice != self._told.get(job_id, "") and (job := self._job(job_id)) is not None:
                self._say(job, notice)
        self._told = fresh
