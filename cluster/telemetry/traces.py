"""Traces in OpenTelemetry, from the client's call to the webhook; off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

Everything is configured by OpenTelemetry's own variables. Between processes a trace travels as a W3C ``traceparent``,
a text; "" stands for none. Spans name jobs, models and tasks, and never what a client wrote.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from zoetrope import __version__

Value: TypeAlias = str | int | float | bool
Attributes: TypeAlias = Mapping[str, Value]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
NAMESPACE = "zoetrope"
JOB, MODEL, TASK, SEGMENT = "zoetrope.job.id", "zoetrope.model", "zoetrope.task", "zoetrope.segment"  # attributes
MAX_TRACEPARENT_CHARS = 128  # today's have 55
FLUSH_MILLISECONDS = 2_000
log = logging.getLogger("zoetrope.traces")
_propagator = TraceContextTextMapPropagator()
_provider: TracerProvider | None = None
_tracer: Tracer = trace.NoOpTracer()


def start_tracing(component: str) -> bool:
    """Send this process's spans to the collector that OpenTelemetry's variables name; returns whether they name one.

    Args:
        component: such as "router"; the service is ``zoetrope-router`` unless OTEL_SERVICE_NAME says otherwise.
    """
    global _provider, _tracer
    if not wanted():
        return False
    if _provider is not None:
        return True
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), PROTOCOL)
    if protocol != PROTOCOL:
        log.error("no traces: %s is %r, and only %s is spoken", PROTOCOLS[1], protocol, PROTOCOL)
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    named = {"service.namespace": NAMESPACE, "service.version": __version__, "service.instance.id": f"{os.getpid()}"}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named["service.name"] = f"{NAMESPACE}-{component}"
    # Not at exit, which would wait for a collector that does not answer: who stops calls `flush_traces`.
    _provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer(NAMESPACE, __version__)
    return True


def wanted() -> bool:
    """Return whether the variables ask for traces."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(os.environ.get(name) for name in ENDPOINTS)


def flush_traces() -> None:
    """Send what waits, before the process ends; takes a few seconds at most, also if the collector does not answer,
    which OpenTelemetry's own limit does not see to."""
    if _provider is not None:
        sending = Thread(target=_provider.force_flush, args=(FLUSH_MILLISECONDS,), name="flush-traces", daemon=True)
        sending.start()
        sending.join(FLUSH_MILLISECONDS / 1_000)


@contextmanager
def span(
    name: str, parent: str = "", kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None
) -> Iterator[Span]:
    """Time a block as a span, the current one inside the block. An exception marks it as failed, by its type alone.

    Args:
        parent: a traceparent; "" for the span around this one, or a new trace.
    """
    made = _tracer.start_span(name, context_of(parent), kind, attributes)
    with trace.use_span(made, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield made
        except Exception as error:
            failed(made, type(error).__name__)
            raise


def past_span(name: str, parent: str, seconds: float, attributes: Attributes | None = None, ended: float = 0.0) -> None:
    """Add a span for something that has ended.

    Args:
        seconds: that it took. ended: when, in seconds since the epoch; 0: just now.
    """
    if _provider is None or not parent:
        return
    end = ended or time.time()
    made = _tracer.start_span(name, context_of(parent), attributes=attributes, start_time=_nanoseconds(end - seconds))
    made.end(_nanoseconds(end))


def failed(span: Span, why: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", why)
    span.set_status(Status(StatusCode.ERROR))


def traceparent(given: Span | None = None) -> str:
    """Return the traceparent of a span, or of the current one; "" if there is none."""
    found = trace.get_current_span() if given is None else given
    if found is INVALID_SPAN or not found.get_span_context().is_valid:
        return ""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(found, Context()))
    return carrier.get("traceparent", "")


def trace_id(parent: str) -> str:
    """Return the trace's id, 32 hexadecimal digits; "" if the traceparent is malformed."""
    parts = parent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""


def context_of(parent: str) -> Context | None:
    """Return the context in which a span is that traceparent's child; None for the current one."""
    if not parent or len(parent) > MAX_TRACEPARENT_CHARS:
        return None
    return _propagator.extract({"traceparent": parent}, Context())


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
