"""What a router foresees is told by every API, as long as it is fresh, and to nobody whose jobs they are not."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.gateway.harness import MODEL, Collector, Service, engine, until
from zoetrope.serving.cli import main
from zoetrope.serving.client import VideoClient
from zoetrope.serving.jobs.forecast_table import JobForecast, ModelForecast, TenantQueue
from zoetrope.serving.jobs.job import Stage

WORDS = "waiting for 3 jobs ahead, about "


class Oracle:
    """Writes a forecast every moment, as the router does, and has an engine that works."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._forecast = ModelForecast(MODEL)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def say(self, jobs: dict[str, JobForecast], **fields: Any) -> None:
        """From now on, also at once."""
        short = {name.removeprefix("operations/"): job for name, job in jobs.items()}
        self._forecast = ModelForecast(MODEL, jobs=short, gpus=1, engines=1, **fields)
        self._service.stores.forecasts.put(self._forecast)

    def __enter__(self) -> Oracle:
        self._service.store.put_engine(engine(time.time() + 600))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._service.store.remove_engine("engine-0")

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self._service.stores.forecasts.put(self._forecast)


def test_everyone_tells_what_the_router_foresees(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    name = service.client.create(prompt="a red circle")
    job_id = name.removeprefix("operations/")
    far, near = JobForecast(400.0, 300.0, 600.0, 3, 360.0, "ahead"), JobForecast(100.0, 80.0, 150.0, 1, 60.0, "share")
    with Oracle(service) as oracle:
        oracle.say({name: far})
        watch = Collector(service.client.watch(name))
        until(lambda: service.client.get(name).notice == WORDS + "6 min")  # the gateway knows of the engine by then
        status = service.client.get(name)
        assert status.queue_position == 3
        assert status.eta_seconds is not None and 390 < status.eta_seconds <= 400
        assert status.eta_low_seconds is not None and 290 < status.eta_low_seconds <= 300
        assert status.eta_high_seconds is not None and 590 < status.eta_high_seconds <= 600
        state: Any = httpx.get(f"{service.http}/dashboard/state", timeout=10).json()
        card = state["jobs"][0]
        assert (card["queue_position"], card["notice"]) == (3, WORDS + "6 min")
        assert 290 < card["eta_low_seconds"] <= 300 and 590 < card["eta_high_seconds"] <= 600
        assert main(["jobs", "--server", service.target]) == 0
        assert WORDS + "6 min" in capsys.readouterr().out
        request: Any = httpx.get(f"{service.http}/zoetrope/{MODEL}/requests/{job_id}/status", timeout=10).json()
        assert request["queue_position"] == 3
        video = httpx.get(f"{service.http}/v1/videos/{job_id}", timeout=10)
        assert video.headers["openai-poll-after-ms"] == "5000"

        until(lambda: watch.seen and watch.seen[-1].queue_position == 3)
        oracle.say({name: near})
        until(lambda: watch.seen[-1].notice.startswith("its tenant's share is used by its other jobs"))
        seen = len(watch.seen)
        oracle.say({name: JobForecast(70.0, 50.0, 90.0, 1, 40.0, "share")})  # its estimate moved, nothing else did
        until(lambda: len(watch.seen) > seen)
        assert watch.seen[-1].eta_seconds is not None and watch.seen[-1].eta_seconds <= 70

        job = service.claim(name)
        service.progress(job, Stage.DENOISING, 2, 7.0)
        oracle.say({name: JobForecast(30.0, 25.0, 40.0)})
        until(lambda: watch.seen[-1].state == "denoising" and watch.seen[-1].eta_low_seconds)
        running = service.client.get(name)
        assert running.notice == "" and running.queue_position == 0
    until(lambda: service.client.get(name).eta_low_seconds is None)  # its router is away
    assert service.client.get(name).eta_seconds == 7.0


def test_engines_and_the_queue(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    running, waiting = (service.client.create(prompt=f"clip {i}") for i in range(2))
    (job,) = service.store.claim("test", [running.removeprefix("operations/")], 60.0, 5, (MODEL,))
    step = {
        "segments": [[job.id, 0, 3, 20, 1_560, True], ["vid_of_another", 0, 1, 9, 99, False]],
        "tokens": 1_560,
        "predicted": 0.25,
        "seconds": 0.3,
        "expected": 0.2,
    }
    with Oracle(service) as oracle:
        oracle.say(
            {waiting: JobForecast(9.0, 8.0, 12.0, 0, 6.0, "slot")},
            tenants={"": TenantQueue(1, 1, 12.5), "acme": TenantQueue(4, 1, 50.0), "bolt": TenantQueue(1, 0, 0.5)},
            accuracy={"errors": {"queued": {"buckets": [["0.1", 3], ["+Inf", 4]], "sum": 0.9}}},
        )
        service.store.put_engine(replace(engine(time.time() + 600), step=step))
        words = "waiting for an adapter slot, about "
        until(lambda: any(job.notice.startswith(words) for job in service.client.engines().waiting))
        seen = service.client.engines()
        (one,) = seen.engines
        assert (one.name, one.state, one.step_tokens, one.other_segments) == ("engine-0", "ready", 1_560, 1)
        assert (one.predicted_step_seconds, one.step_seconds, one.predicted_last_step_seconds) == (0.25, 0.3, 0.2)
        (segment,) = one.segments
        assert (segment.operation, segment.step, segment.steps, segment.advances) == (running, 3, 20, True)
        own, others = seen.queues
        assert (own.tenant, own.others, own.queued_jobs, own.running_jobs, own.gpu_seconds) == ("", False, 1, 1, 12.5)
        assert (others.tenant, others.others, others.queued_jobs, others.running_jobs) == ("", True, 5, 1)
        assert others.gpu_seconds == 50.5
        (first,) = seen.waiting
        assert first.operation == waiting
        check_top(service, capsys)
        check_panel(service)
        check_metrics(service)
        check_what_a_tenant_sees(service)


def check_top(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["top", "--once", "--server", service.target]) == 0
    shown = capsys.readouterr().out
    for text in ("1 of 1 engines ready", "step 3/20", "300 ms", "200 ms", "1 of other tenants", "all others", "slot"):
        assert text in shown
    assert "vid_of_another" not in shown and "acme" not in shown
    assert main(["top", "--once", "--json", "--server", service.target]) == 0
    assert json.loads(capsys.readouterr().out)["engines"][0]["step_tokens"] == 1_560
    assert main(["top", "--json", "--server", service.target]) == 2
    assert "json: needs --once" in capsys.readouterr().err
    assert main(["top", "--server", service.target]) == 2
    assert "once: must be given where the output is no terminal" in capsys.readouterr().err


def check_panel(service: Service) -> None:
    panel: Any = httpx.get(f"{service.http}/dashboard/queue", timeout=10).json()
    assert [queue["gpu_seconds"] for queue in panel["queues"]] == [12.5, 50.5]
    assert panel["waiting"][0]["prompt"] == "clip 1"
    state: Any = httpx.get(f"{service.http}/dashboard/state", timeout=10).json()
    (shown,) = state["engines"]
    assert (shown["step_tokens"], shown["step_seconds"], shown["expected_step_seconds"]) == (1_560, 0.3, 0.2)


def check_metrics(service: Service) -> None:
    families = text_string_to_metric_families(httpx.get(service.http + "/metrics", timeout=10).text)
    samples = {
        (s.name, *(s.labels[label] for label in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }
    assert samples["zoetrope_eta_error_ratio_bucket", "0.1", MODEL, "queued"] == 3
    assert samples["zoetrope_eta_error_ratio_count", MODEL, "queued"] == 4
    assert samples["zoetrope_engine_step_seconds", "engine-0"] == 0.3
    assert samples["zoetrope_engine_step_predicted_seconds", "engine-0"] == 0.2


def check_what_a_tenant_sees(service: Service) -> None:
    _, secret = service.stores.keys.create("of acme", "acme")
    with VideoClient(service.target, api_key=secret) as acme:
        until(lambda: acme.engines().queues[0].tenant == "acme")  # it is believed for a moment that there are no keys
        seen = acme.engines()
    assert seen.engines[0].segments == () and seen.engines[0].other_segments == 2 and seen.waiting == ()
    assert [(queue.tenant, queue.queued_jobs) for queue in seen.queues] == [("acme", 4), ("", 2)]
