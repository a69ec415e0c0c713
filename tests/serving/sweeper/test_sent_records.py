"""What metrics and traces tell of webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.telemetry.spans import PARENT, kept_spans, parent_of
from tests.serving.jobs.harness import LIMITS, claim, new_job
from tests.serving.outbound.receiver import Answer, receiving
from zoetrope.cluster.telemetry.catalogue import REGISTRY
from zoetrope.serving.jobs.job import JobWebhook
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.outbound import Guard
from zoetrope.serving.sweeper.sender import Sender


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    yield stores
    stores.close()


def sent(outcome: str) -> float:
    return REGISTRY.get_sample_value("zoetrope_webhooks_total", {"outcome": outcome}) or 0.0


@pytest.mark.parametrize(("status", "outcome"), [(204, "delivered"), (500, "retried"), (410, "given_up")])
async def test_a_delivery_is_a_span_of_its_jobs_trace_and_counted(stores: Stores, status: int, outcome: str) -> None:
    got: list[dict[str, str]] = []

    def answer(headers: dict[str, str], body: bytes) -> Answer:
        got.append(headers)
        return Answer(status)

    before = sent(outcome)
    with receiving(answer) as url, kept_spans() as kept:
        spec = {"task": {"kind": "text_to_video", "prompt": "a red circle"}}
        job = new_job("a", webhook=JobWebhook(url, ("start",)), spec=spec, traceparent=PARENT)
        stores.jobs.create(job, LIMITS)
        assert claim(stores.jobs)
        sender = Sender(stores, Guard(allow=("127.0.0.1",)), "http://here")
        assert await sender.send_due() == 1
        await sender.drain()
        (span,) = kept.get_finished_spans()
    assert sent(outcome) == before + 1
    assert (span.name, parent_of(span)) == ("webhook", "00f067aa0ba902b7")
    told = dict(span.attributes or {})
    assert (told["zoetrope.job.id"], told["http.response.status_code"], told["zoetrope.attempt"]) == ("a", status, 1)
    assert ("error.type" in told) == (status != 204)
    assert span.context is not None
    assert got[0]["traceparent"] == f"{PARENT[:36]}{span.context.span_id:016x}-01"


async def test_without_tracing_the_callers_own_trace_is_passed_on(stores: Stores) -> None:
    got: list[dict[str, str]] = []

    def answer(headers: dict[str, str], body: bytes) -> Answer:
        got.append(headers)
        return Answer()

    with receiving(answer) as url:
        spec = {"task": {"kind": "text_to_video"}}
        stores.jobs.create(new_job("a", webhook=JobWebhook(url, ("start",)), spec=spec, traceparent=PARENT), LIMITS)
        assert claim(stores.jobs)
        sender = Sender(stores, Guard(allow=("127.0.0.1",)), "http://here")
        await sender.send_due()
        await sender.drain()
    assert got[0]["traceparent"] == PARENT
