"""What metrics and traces tell of calls to a gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

from opentelemetry.trace import SpanKind

from zoetrope.cluster.telemetry.catalogue import start_at_zero
from zoetrope.cluster.telemetry.metrics import REQUEST_SECONDS, REQUESTS
from zoetrope.cluster.telemetry.traces import failed, span

Api = Literal["grpc", "http"]
# Failures whose cause is here. Their counts begin with a method's first call, at 0.
OURS: dict[Api, tuple[str, ...]] = {
    "grpc": ("UNKNOWN", "INTERNAL", "DATA_LOSS", "UNAVAILABLE"),
    "http": ("500", "503"),
}


class CallRecord:
    """A call under way. ``method`` and ``code`` are set once they are known."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.code = "UNKNOWN"


@contextmanager
def recorded_call(api: Api, method: str, parent: str = "", *, traced: bool = True) -> Iterator[CallRecord]:
    """Count a call and, if ``traced``, make it a span of the caller's trace, which jobs that it stores belong to.

    Args:
        parent: the caller's traceparent; "" starts a trace.
    """
    record, started = CallRecord(method), time.monotonic()
    with span(f"{api} {method}", parent, SpanKind.SERVER) if traced else nullcontext() as made:
        try:
            yield record
        except (asyncio.CancelledError, GeneratorExit):  # its client is gone
            record.code = "CANCELLED"
            raise
        finally:
            start_at_zero(REQUESTS, [api], [record.method], OURS[api])
            REQUESTS.labels(api, record.method, record.code).inc()
            REQUEST_SECONDS.labels(api, record.method).observe(time.monotonic() - started)
            if made is not None:
                made.update_name(f"{api} {record.method}")
                made.set_attribute("zoetrope.code", record.code)
                if record.code in OURS["grpc"] or record.code.startswith("5"):
                    failed(made, record.code)
