"""What can be seen of a whole service from outside: a job's trace, its logs, and what a real Prometheus gets."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.k8s.monitoring.rules import queries
from tests.serving.gateway.harness import until
from tests.serving.seen.labels import unexpected, values
from tests.serving.seen.prometheus import Prometheus, prometheus
from tests.serving.seen.service import Seen, seen_service
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TRACE, CALLER = "5b8aa5a2d2c872e8321cf37308d69df2", "051581bf3cb55c13"
STEPS, JOB_SECONDS, LOAD_SECONDS = 8, 200.0, 60.0
PROMPT = "a red circle moving right on a white background"
MOST_SERIES = 1_000
MINUTE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with seen_service(tmp_path_factory.mktemp("seen")) as made:
        yield made


@pytest.fixture(scope="module")
def scraped(seen: Seen, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (`make promtool`)")
    with prometheus(tmp_path_factory.mktemp("prometheus"), seen.service.addresses.http) as made:
        yield made


def create(seen: Seen, *, traceparent: str = "", steps: int = STEPS) -> str:
    """Ask for a job as a client of gRPC's own would; returns the name of its operation."""
    request = video_pb2.CreateVideoRequest(
        text_to_video=video_pb2.TextToVideo(prompt=PROMPT),
        duration_seconds=2.0,
        steps=steps,
        webhook=video_pb2.Webhook(url=seen.hook, events=["completed"]),
    )
    with grpc.insecure_channel(seen.service.addresses.grpc) as channel:
        stub: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
        metadata = [("traceparent", traceparent)] if traceparent else []
        return str(stub.CreateVideo(request, metadata=metadata).name)


def named(spans: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one span of that name."""
    (found,) = [span for span in spans if span["name"] == name]
    return found


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: next(iter(item["value"].values())) for item in span["attributes"]}


def test_one_trace_leads_from_the_call_through_every_step_to_the_webhook(seen: Seen) -> None:
    job = create(seen, traceparent=f"00-{TRACE}-{CALLER}-01")
    assert seen.service.client.wait(job, JOB_SECONDS).state == "succeeded"

    def arrived() -> list[dict[str, Any]]:
        spans = [span for span in seen.spans() if span["traceId"] == TRACE]
        return spans if {"webhook", "job", "decoding"} <= {span["name"] for span in spans} else []

    spans = until(arrived, 60)
    assert sorted({span["name"] for span in spans}) == [
        "conditioning", "decoding", "denoising", "grpc VideoService/CreateVideo", "job", "queued", "step", "webhook"
    ]  # fmt: skip
    call, work, denoising = (named(spans, name) for name in ("grpc VideoService/CreateVideo", "job", "denoising"))
    assert call["parentSpanId"] == CALLER
    for name, parent in {
        "queued": call, "job": call, "webhook": call, "conditioning": work, "denoising": work, "decoding": work
    }.items():  # fmt: skip
        assert named(spans, name)["parentSpanId"] == parent["spanId"], name
    steps = [span for span in spans if span["name"] == "step"]
    assert {span["parentSpanId"] for span in steps} == {denoising["spanId"]}
    assert len(steps) == STEPS
    assert {int(number) for span in steps if (number := attributes(span).get("zoetrope.step"))} == set(range(1, STEPS))
    for span in spans:
        begins, ends = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        assert begins <= ends
        assert attributes(span).get("zoetrope.job.id", job.rpartition("/")[2]) == job.rpartition("/")[2]
        assert "circle" not in json.dumps(span)
    order = [int(named(spans, name)["startTimeUnixNano"]) for name in ("job", "conditioning", "denoising", "decoding")]
    assert order == sorted(order)
    sent = named(spans, "webhook")
    assert f"00-{TRACE}-{sent['spanId']}-01" in [headers.get("traceparent") for headers in seen.hooks]


def test_a_service_that_stops_sends_what_it_has_seen(tmp_path: Path) -> None:
    """From each of its processes, which would otherwise send it in a minute."""
    with seen_service(tmp_path, MINUTE) as seen:
        job = create(seen, traceparent=f"00-{TRACE}-{CALLER}-01")
        assert seen.service.client.wait(job, JOB_SECONDS).state == "succeeded"
        until(lambda: seen.hooks, 60)
        assert "decoding" not in seen.spans_file.read_text()
        seen.service.stop()
        spans = [span for span in seen.spans() if span["traceId"] == TRACE]
    assert Counter(span["name"] for span in spans) == {
        "grpc VideoService/CreateVideo": 1, "queued": 1, "job": 1, "conditioning": 1, "denoising": 1, "step": STEPS,
        "decoding": 1, "webhook": 1
    }  # fmt: skip


def test_logs_are_json_about_jobs_and_ranks(seen: Seen) -> None:
    job = create(seen, traceparent=f"00-{TRACE}-{CALLER}-01", steps=400)
    kill_rank(seen, job)
    log = seen.service.directory / "data" / "logs" / "cluster.log"
    until(lambda: " is lost: " in log.read_text(), 60)
    seen.service.client.cancel(job)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"time", "level", "logger", "process", "message"} <= set.intersection(*(set(line) for line in lines))
    (lost,) = [line for line in lines if " is lost: " in line["message"]]
    assert (lost["component"], lost["gang_epoch"]) == ("engine", 1)
    ranks = [line for line in lines if line.get("component") == "rank"]
    assert ranks and {(line["engine"], line["rank"]) for line in ranks if "rank" in line} == {(lost["engine"], 0)}
    assert "circle" not in log.read_text()


def kill_rank(seen: Seen, job: str) -> None:
    """Kill the engine's rank while it denoises a job."""
    until(lambda: seen.service.client.get(job).step > 1, 120)
    seen.service.find("RankProcess").send_signal(signal.SIGKILL)


def test_a_minute_of_load_fills_every_dashboard(seen: Seen, scraped: Prometheus) -> None:
    began = time.monotonic()
    while time.monotonic() - began < LOAD_SECONDS:
        for job in [create(seen), create(seen)]:
            assert seen.service.client.wait(job, JOB_SECONDS).state == "succeeded"
    series = [found["metric"] for found in scraped.query('{__name__=~"zoetrope_.*"}')]
    allowed = values(seen)
    wrong = {one["__name__"]: found for one in series if (found := unexpected(one, allowed))}
    assert not wrong, "series grow in number with what is not known beforehand"
    assert len(series) <= MOST_SERIES
    empty = []
    for place, query in queries():
        text = query.replace("$namespace", ".*").replace("$__rate_interval", "1m")
        if not scraped.query(text):
            empty.append(f"{place}: {text}")
    assert not empty, "\n".join(empty)


def test_a_lost_gang_fires_its_alert(seen: Seen, scraped: Prometheus) -> None:
    assert "ZoetropeMetricsMissing" not in scraped.firing()
    job = create(seen, steps=400)
    kill_rank(seen, job)
    labels = until(lambda: scraped.firing().get("ZoetropeGangRestarted"), 60)
    assert labels is not None and labels["reason"] == "died" and labels["severity"] == "warning"
    seen.service.client.cancel(job)
