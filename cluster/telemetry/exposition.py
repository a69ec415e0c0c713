"""Show metrics to Prometheus: as text, and on a port of a pod whose processes come and go."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from zoetrope.cluster.telemetry import metrics  # noqa: F401  # all of them, also those that nobody here uses
from zoetrope.cluster.telemetry.catalogue import PREFIX, REGISTRY
from zoetrope.cluster.telemetry.shared import directory, forget_oldest

ADDRESS = "ZOETROPE_METRICS_ADDRESS"
RETRY_SECONDS = 2.0  # while another process of the pod has the port
log = logging.getLogger("zoetrope.metrics")


class SharedMetrics:
    """A collector of what all processes of this machine or pod counted, or this process alone where none share."""

    def collect(self) -> Iterable[Metric]:
        found = directory()
        if found is None or not found.is_dir():
            yield from REGISTRY.collect()
            return
        collector: Any = MultiProcessCollector(CollectorRegistry(), path=str(found))  # type: ignore[no-untyped-call]
        yield from (metric for metric in collector.collect() if metric.name.startswith(PREFIX))


def exposition() -> bytes:
    """Return the metrics in Prometheus' text format."""
    return generate_latest(registry())


def registry() -> CollectorRegistry:
    """Return a registry of the metrics, to which collectors can be added."""
    made = CollectorRegistry(auto_describe=False)
    made.register(SharedMetrics())
    return made


def serve_in_background() -> None:
    """Answer GET /metrics at ZOETROPE_METRICS_ADDRESS, if that is set, for all processes of this pod. One process has
    the port; when it ends, another takes over. An address that is none costs the metrics, not the process."""
    address = os.environ.get(ADDRESS, "")
    if address:
        host, _, port = address.rpartition(":")
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
            log.error("no metrics: %s is %r, and must be HOST:PORT with a port from 1 to 65535", ADDRESS, address)
            return
        threading.Thread(target=_serve, args=(host.strip("[]"), int(port)), name="metrics", daemon=True).start()


def _serve(host: str, port: int) -> None:
    waiting = threading.Event()
    while True:
        try:
            start_http_server(port, host or "0.0.0.0", registry())
        except OSError:
            forget_oldest()
            waiting.wait(RETRY_SECONDS)
            continue
        log.info("metrics are at port %d", port)
        return
