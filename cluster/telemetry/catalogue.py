"""How a metric is described, and the list of all: documentation, rules and dashboards are checked against it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from zoetrope.cluster.telemetry.shared import share_values

PREFIX = "zoetrope_"
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Description:
    """A metric. ``name``: as Prometheus stores it, for a histogram without _bucket, _sum or _count."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...]
    stored: bool = False  # read from the job database at each scrape, the same in every gateway

    def counter(self) -> CounterMetricFamily:
        """Return it without values, to be filled at a scrape."""
        return CounterMetricFamily(self.name, self.text, labels=self.labels)

    def gauge(self) -> GaugeMetricFamily:
        """Return it without values, to be filled at a scrape."""
        return GaugeMetricFamily(self.name, self.text, labels=self.labels)

    def histogram(self) -> HistogramMetricFamily:
        """Return it without values, to be filled at a scrape."""
        return HistogramMetricFamily(self.name, self.text, labels=self.labels)


ALL: dict[str, Description] = {}
REGISTRY = CollectorRegistry(auto_describe=False)
disable_created_metrics()  # type: ignore[no-untyped-call]  # when a series began, which would be as many series again
share_values()  # before the first metric is made


def describe(name: str, kind: Kind, text: str, labels: Sequence[str] = (), *, stored: bool = False) -> Description:
    """Add a metric to the list.

    Raises:
        ValueError: there is one of this name.
    """
    if name in ALL:
        raise ValueError(f"{name} is described twice")
    ALL[name] = Description(name, kind, text, tuple(labels), stored)
    return ALL[name]


def counter(name: str, text: str, **labels: Sequence[str]) -> Counter:
    """Make a counter of this process.

    Args:
        labels: each with the values that it has from the start, see `start_at_zero`; none: they are known later.
    """
    describe(name, "counter", text, tuple(labels))
    made = Counter(name, text, tuple(labels), registry=REGISTRY)
    if labels:
        start_at_zero(made, *labels.values())
    return made


def start_at_zero(metric: Counter, *values: Iterable[str]) -> None:
    """Have a counter's series from now on, at 0, so that Prometheus sees the first event as a change.

    Args:
        values: of each label, in order; every combination of them is a series.
    """
    for combination in product(*values):
        metric.labels(*combination)


def gauge(name: str, text: str, *labels: str) -> Gauge:
    """Make a gauge; of several processes the one that set it last is shown."""
    describe(name, "gauge", text, labels)
    return Gauge(name, text, labels, registry=REGISTRY, multiprocess_mode="mostrecent")


def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
    """Make a histogram with these upper bounds."""
    describe(name, "histogram", text, labels)
    return Histogram(name, text, labels, registry=REGISTRY, buckets=buckets)
