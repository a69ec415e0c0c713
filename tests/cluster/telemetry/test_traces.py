"""Traces: what continues whose, and that nothing is sent unless it is asked for."""

from __future__ import annotations

import logging
import time
from threading import Event

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode

from tests.cluster.telemetry.spans import PARENT, kept_spans, parent_of
from zoetrope.cluster.telemetry import traces
from zoetrope.cluster.telemetry.traces import flush_traces, past_span, span, start_tracing, trace_id, traceparent


def test_without_a_collector_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in traces.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert not start_tracing("router")
    with span("anything", PARENT):
        assert traceparent() in ("", PARENT)


@pytest.mark.parametrize(("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")])
def test_opentelemetrys_own_variables_turn_it_off(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert traces.wanted()
    monkeypatch.setenv(name, value)
    assert not start_tracing("router")


def test_a_protocol_that_is_not_spoken_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with caplog.at_level(logging.ERROR, "zoetrope.traces"):
        assert not start_tracing("router")
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'" in caplog.text


def test_a_collector_that_does_not_answer_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Event()

    class Silent(SpanProcessor):
        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return answered.wait(60)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Silent())
    monkeypatch.setattr(traces, "_provider", provider)
    monkeypatch.setattr(traces, "FLUSH_MILLISECONDS", 50)
    started = time.monotonic()
    flush_traces()
    assert time.monotonic() - started < 30
    answered.set()


def test_spans_of_one_process_continue_the_callers() -> None:
    with kept_spans() as kept:
        with span("outer", PARENT), span("inner"):
            assert trace_id(traceparent()) == trace_id(PARENT)
        inner, outer = kept.get_finished_spans()
    assert (inner.name, outer.name) == ("inner", "outer")
    assert parent_of(outer) == "00f067aa0ba902b7"
    assert inner.context is not None and outer.context is not None
    assert parent_of(inner) == f"{outer.context.span_id:016x}"


def test_a_failure_is_told_by_its_type_alone() -> None:
    with kept_spans() as kept:
        with pytest.raises(ValueError), span("work", PARENT):
            raise ValueError("a prompt")
        (made,) = kept.get_finished_spans()
    assert made.status.status_code is StatusCode.ERROR
    assert dict(made.attributes or {}) == {"error.type": "ValueError"}
    assert not made.events and "prompt" not in made.to_json()


def test_what_has_ended_gets_its_own_times() -> None:
    with kept_spans() as kept:
        past_span("step", PARENT, 2.5, {"n": 1}, ended=1_000.0)
        past_span("step", "", 2.5)  # belongs to no trace
        (made,) = kept.get_finished_spans()
    assert (made.start_time, made.end_time) == (997_500_000_000, 1_000_000_000_000)


@pytest.mark.parametrize(
    "malformed", ["", "x", "00-12-34-01", "0" * 500, f"{PARENT[:40]}", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
def test_a_malformed_parent_starts_a_trace(malformed: str) -> None:
    with kept_spans() as kept:
        with span("work", malformed):
            pass
        (made,) = kept.get_finished_spans()
    assert made.parent is None


def test_a_parent_that_is_not_sampled_is_not_traced() -> None:
    with kept_spans() as kept:
        with span("work", PARENT[:-2] + "00"):
            assert traceparent().endswith("-00")
        assert not kept.get_finished_spans()
