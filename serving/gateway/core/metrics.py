"""What Prometheus reads, from the job database at each scrape: every gateway reports the same. No job ids."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.jobs.store import JobStore


def metrics_of(store: JobStore, liveness: Liveness) -> bytes:
    """Return the metrics in Prometheus' text format.

    Raises:
        StoreError.
    """
    registry = CollectorRegistry()
    registry.register(_Reader(store, liveness))
    return generate_latest(registry)


class _Reader:
    def __init__(self, store: JobStore, liveness: Liveness) -> None:
        self._store = store
        self._liveness = liveness

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
