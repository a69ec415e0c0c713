"""What Prometheus reads, from the job database at each scrape: every gateway reports the same. No job ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from zoetrope.serving.gateway.watch.forecasts import FRESH_SECONDS
from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.jobs.forecast_table import ForecastTable, ModelForecast
from zoetrope.serving.jobs.job import EngineRow, UnfinishedWork
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.router.scaling import Scale, desired_engines


def metrics_registry(
    store: JobStore, liveness: Liveness, forecasts: ForecastTable, scales: Mapping[str, Scale]
) -> CollectorRegistry:
    """Return what reads the metrics whenever it is asked, which may raise StoreError; ``scales``: of each deployment of
    engines."""
    registry = CollectorRegistry()
    registry.register(_Reader(store, liveness, forecasts, scales))
    return registry


class _Reader:
    def __init__(
        self, store: JobStore, liveness: Liveness, forecasts: ForecastTable, scales: Mapping[str, Scale]
    ) -> None:
        self._store = store
        self._liveness = liveness
        self._forecasts = forecasts
        self._scales = scales

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("zoetrope_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._store.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        engines = self._liveness.all_engines()
        states = GaugeMetricFamily("zoetrope_engines", "Engines by state.", labels=["state"])
        for state in ("ready", "rebuilding", "loading", "out"):
            states.add_metric([state], sum(engine.state == state for engine in engines))
        yield states
        epochs = GaugeMetricFamily("zoetrope_gang_epoch", "Grows when a gang is rebuilt.", labels=["engine"])
        lost = CounterMetricFamily(
            "zoetrope_gang_restarts", "Gangs that an engine lost, by what became of them.", labels=["engine", "reason"]
        )
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
        queued = GaugeMetricFamily(
            "zoetrope_queued_gpu_seconds",
            "GPU-seconds that unfinished jobs are expected to take yet, by model.",
            labels=["model"],
        )
        for model, work in mine.items():
            queued.add_metric([model], work.gpu_seconds)
        yield queued
        desired = GaugeMetricFamily(
            "zoetrope_desired_engines", "Engines that this work wants, by deployment.", labels=["deployment"]
        )
        for name, scale in self._scales.items():
            desired.add_metric([name], desired_engines(sum(mine.values(), UnfinishedWork()), scale))
        yield desired


def _predictions(told: Sequence[ModelForecast]) -> Iterable[Metric]:
    """Yield how far the routers' estimates were off."""
    errors = HistogramMetricFamily(
        "zoetrope_eta_error_ratio",
        "How far the first estimate of each job's end was off, as a share of the job's duration, by the stage in"
        " which it was made.",
        labels=["model", "stage"],
    )
    for forecast in told:
        for stage, error in forecast.accuracy.get("errors", {}).items():
            errors.add_metric([forecast.model, stage], buckets=error["buckets"], sum_value=error["sum"])
    yield errors


def _stages(told: Sequence[ModelForecast]) -> Iterable[Metric]:
    """Yield what a router knows of the stages around the engines, see `serving.router.around`."""
    calls = GaugeMetricFamily(
        "zoetrope_stage_calls", "Calls that run in conditioners and decoders, or wait.", labels=["stage", "state"]
    )
    latents = GaugeMetricFamily(
        "zoetrope_waiting_latents_bytes", "Finished latents that wait, in memory or spilled.", labels=["place"]
    )
    held = GaugeMetricFamily("zoetrope_condition_cache_bytes", "What conditioners keep.", labels=["cache"])
    asked = CounterMetricFamily(
        "zoetrope_condition_cache_lookups", "What conditioners looked up and had or not.", labels=["cache", "found"]
    )
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
    for name, key, what in (
        ("zoetrope_engine_step_seconds", "seconds", "Seconds that an engine's newest finished step took."),
        ("zoetrope_engine_step_predicted_seconds", "expected", "Seconds that had been predicted for that step."),
    ):
        metric = GaugeMetricFamily(name, what, labels=["engine"])
        for engine in engines:
            if engine.step.get(key) is not None:
                metric.add_metric([engine.id], engine.step[key])
        yield metric
    errors = GaugeMetricFamily(
        "zoetrope_step_cost_error_ratio",
        "Median error of recent predictions of an engine's steps, as a share of what they took.",
        labels=["engine"],
    )
    for engine in engines:
        if engine.costs.get("seen"):
            errors.add_metric([engine.id], engine.costs["error"])
    yield errors
