"""Routers' forecasts, read once a second for all who ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context

from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.forecast_table import ForecastTable, JobForecast, ModelForecast

LOOK_SECONDS = 1.0  # between two reads
FRESH_SECONDS = 5.0  # after which a forecast no longer counts: its router is away


class Forecasts:
    """The forecasts of one gateway's database."""

    def __init__(self, table: ForecastTable, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._clock = clock
        self._read_at = float("-inf")
        self._found: Mapping[str, tuple[ModelForecast, float]] = {}  # by model, with when it was written on our clock
        self._reading: asyncio.Task[None] | None = None

    async def of(self, model: str) -> ModelForecast | None:
        """Return the forecast of a model; None if there is none, or none that is fresh."""
        found = await self._current(model)
        return None if found is None else found[0]

    async def job(self, model: str, job_id: str) -> JobForecast | None:
        """Return what is predicted of a job, from now on; None if nothing is."""
        found = await self._current(model)
        if found is None or (job := found[0].jobs.get(job_id)) is None:
            return None
        return aged(job, self._clock() - found[1])

    async def _current(self, model: str) -> tuple[ModelForecast, float] | None:
        if self._clock() - self._read_at >= LOOK_SECONDS:
            if self._reading is None:
                # Nobody's in particular: it must not wait in the line of the caller that happens to come first.
                self._reading = asyncio.create_task(self._read(), context=Context())
            if self._clock() - self._read_at > FRESH_SECONDS:
                await asyncio.shield(self._reading)  # else it takes the old ones meanwhile
        found = self._found.get(model)
        return found if found is not None and self._clock() - found[1] <= FRESH_SECONDS else None

    async def _read(self) -> None:
        started = self._clock()
        try:
            with suppress(StoreError):
                rows = await asyncio.to_thread(self._table.fresh, FRESH_SECONDS)
                self._found = {model: (forecast, started - age) for model, (forecast, age) in rows.items()}
            self._read_at = started
        finally:
            self._reading = None


def aged(job: JobForecast, seconds: float) -> JobForecast:
    """Return a forecast as it reads so many seconds after it was written."""
    eta, low, high, start = (max(0.0, value - seconds) for value in (job.eta, job.low, job.high, job.start))
    return JobForecast(eta, low, high, job.place, start, job.why)
