"""Spans that stay in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from zoetrope.cluster.telemetry import traces

PARENT = "00-0123456789abcdef0123456789abcdef-00f067aa0ba902b7-01"


@contextmanager
def kept_spans() -> Iterator[InMemorySpanExporter]:
    """Trace inside the block; what has ended is kept."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "_provider", provider)
        patch.setattr(traces, "_tracer", provider.get_tracer("tests"))
        yield exporter


def parent_of(span: ReadableSpan) -> str:
    """The id of a span's parent, 16 hexadecimal digits; "" if it has none."""
    return "" if span.parent is None else f"{span.parent.span_id:016x}"
