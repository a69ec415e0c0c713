"""What Prometheus reads at a gateway: what processes counted, and what the job database tells at each scrape."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from zoetrope.cluster.telemetry import metrics
from zoetrope.cluster.telemetry.exposition import registry
from zoetrope.serving.gateway.watch.forecasts import FRESH_SECONDS
from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.forecast_table import ForecastTable, ModelForecast
from zoetrope.serving.jobs.job import EngineRow, UnfinishedWork
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.router.scaling import Scale, desired_engines

log = logging.getLogger("zoetrope.gateway")


def metrics_registry(
    store: JobStore, liveness: Liveness, forecasts: ForecastTable, scales: Mapping[str, Scale]
) -> CollectorRegistry:
    """Return what reads the metrics whenever it is asked: those of this process, or of all that share values with it,
    and those in the database, which are the same in every gateway.

    Args:
        scales: of each deployment of engines.
    """
    found = registry()
    found.register(_Reader(store, liveness, forecasts, scales))
    return found


class _Reader:
    def __init__(
        self, store: JobStore, liveness: Liveness, forecasts: ForecastTable, scales: Mapping[str, Scale]
    ) -> None:
        self._store = store
        self._liveness = liveness
        self._forecasts = forecasts
        self._scales = scales

    def collect(self) -> Iterable[Metric]:
        """Read all of them, or none while the database does not answer: what processes counted is shown regardless."""
        try:
            return list(self._read())
        except StoreError as error:
            log.warning("the metrics in the database are left out: %s", error)
            return []

    def _read(self) -> Iterable[Metric]:
        jobs = metrics.JOBS.gauge()
        for state, count in self._store.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        engines = self._liveness.all_engines()
        states = metrics.ENGINES.gauge()
        for state in ("ready", "rebuilding", "loading", "out"):
            states.add_metric([state], sum(engine.state == state for engine in engines))
        yield states
        epochs = metrics.GANG_EPOCH.gauge()
        lost = metrics.GANG_RESTARTS.counter()
        for engine in engines:
            epochs.add_metric([engine.id], engine.gang_epoch)
            for reason, count in engine.restarts.items():
                lost.add_metric([engine.id, reason], count)
        yield epochs
        yield lost
        yield from _steps(engines)
        told = [forecast for forecast, _ in self._forecasts.fresh(FRESH_SECONDS).values()]
        yield from _predictions(told)
        yield from self._scaling()
        yield from _stages(told)

    def _scaling(self) -> Iterable[Metric]:
        """Yield what decides on the number of engines, as `serving.ray_host.autoscaling` decides too."""
        unfinished = self._store.unfinished_work()
        mine = {model: unfinished.get(model, UnfinishedWork()) for model in self._liveness.models}
        queued = metrics.QUEUED_GPU_SECONDS.gauge()
        for model, work in mine.items():
            queued.add_metric([model], work.gpu_seconds)
        yield queued
        desired = metrics.DESIRED_ENGINES.gauge()
        for name, scale in self._scales.items():
            desired.add_metric([name], desired_engines(sum(mine.values(), UnfinishedWork()), scale))
        yield desired


def _predictions(told: Sequence[ModelForecast]) -> Iterable[Metric]:
    """Yield how far the routers' estimates were off."""
    errors = metrics.ETA_ERROR.histogram()
    for forecast in told:
        for stage, error in forecast.accuracy.get("errors", {}).items():
            errors.add_metric([forecast.model, stage], buckets=error["buckets"], sum_value=error["sum"])
    yield errors


def _stages(told: Sequence[ModelForecast]) -> Iterable[Metric]:
    """Yield what a router knows of the stages around the engines, see `serving.router.around`."""
    calls = metrics.STAGE_CALLS.gauge()
    latents = metrics.WAITING_LATENTS.gauge()
    held = metrics.CACHE_BYTES.gauge()
    asked = metrics.CACHE_LOOKUPS.counter()
    figures = next((forecast.stages for forecast in told if forecast.stages), {})
    for name, value in figures.items():
        match name.split("."):
            case ["calls", stage, state]:
                calls.add_metric([stage, state], value)
            case ["latents", place]:
                latents.add_metric([place], value)
            case ["cache", cache, "bytes"]:
                held.add_metric([cache], value)
            case ["cache", cache, outcome]:
                asked.add_metric([cache, outcome], value)
    yield from (calls, latents, held, asked)


def _steps(engines: Sequence[EngineRow]) -> Iterable[Metric]:
    """Yield what each engine's newest finished step took, and what had been predicted for it."""
    for described, key in ((metrics.NEWEST_STEP_SECONDS, "seconds"), (metrics.PREDICTED_STEP_SECONDS, "expected")):
        metric = described.gauge()
        for engine in engines:
            if engine.step.get(key) is not None:
                metric.add_metric([engine.id], engine.step[key])
        yield metric
    errors = metrics.STEP_COST_ERROR.gauge()
    for engine in engines:
        if engine.costs.get("seen"):
            errors.add_metric([engine.id], engine.costs["error"])
    yield errors
