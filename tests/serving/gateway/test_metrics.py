"""What Prometheus reads, and what the probes say of engines that are out of service."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.gateway.harness import Service, engine, text_request
from tests.serving.jobs.harness import LIMITS, new_job
from zoetrope.serving.jobs.forecast_table import ModelForecast


def samples(service: Service) -> dict[tuple[str, tuple[str, ...]], float]:
    """Value by name and label values; each may stand there once."""
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for family in text_string_to_metric_families(httpx.get(service.http + "/metrics").text):
        for sample in family.samples:
            at = (sample.name, tuple(sample.labels.values()))
            assert at not in found, f"{at} stands there twice"
            found[at] = sample.value
    return found


def test_jobs_by_state(service: Service) -> None:
    before = samples(service)["zoetrope_jobs", ("queued",)]
    service.videos.CreateVideo(text_request())
    assert samples(service)["zoetrope_jobs", ("queued",)] == before + 1


def test_an_engine_that_was_just_taken_out_counts_once(service: Service) -> None:
    now = time.time()
    service.store.put_engine(engine(now))
    lost = {"died": 2, "hung": 1, "raised": 0, "start": 0}
    service.store.put_engine(replace(engine(now), id="engine-1", state="out", restarts=lost))
    service.store.put_engine(replace(engine(now - 600), id="engine-2", state="out"))
    service.store.put_engine(replace(engine(now - 600), id="engine-3"))  # gone, for it says nothing any more
    found = samples(service)
    assert [found["zoetrope_engines", (state,)] for state in ("ready", "rebuilding", "out")] == [1, 0, 2]
    assert found["zoetrope_gang_restarts_total", ("engine-1", "died")] == 2
    assert found["zoetrope_gang_epoch", ("engine-0",)] == 3
    body = httpx.get(service.http + "/readyz").json()
    assert [row["id"] for row in body["engines"]] == ["engine-0"]
    assert [row["id"] for row in body["out_of_service"]] == ["engine-1", "engine-2"]
    for number in range(4):
        service.store.remove_engine(f"engine-{number}")


def test_the_work_that_waits_says_how_many_engines_it_wants(service: Service) -> None:
    before = samples(service)
    name = next(labels[0] for metric, labels in before if metric == "zoetrope_queued_gpu_seconds")
    job = service.store.create(new_job("priced", model=name, price=42.5), LIMITS)
    found = samples(service)
    waiting = ("zoetrope_queued_gpu_seconds", (name,))
    assert found[waiting] == before[waiting] + 42.5
    assert found["zoetrope_desired_engines", ("Engine",)] == 1
    service.store.request_cancel(job.id, job.owner)
    assert samples(service)[waiting] == before[waiting]


def test_what_a_router_knows_of_the_stages(service: Service) -> None:
    stages = {
        "calls.decoder.waiting": 3,
        "latents.spilled": 7e9,
        "cache.media.hits": 5,
        "cache.media.misses": 2,
        "cache.media.bytes": 9,
    }
    service.stores.forecasts.put(ModelForecast("nano", stages=stages))
    found = samples(service)
    assert found["zoetrope_stage_calls", ("decoder", "waiting")] == 3
    assert found["zoetrope_waiting_latents_bytes", ("spilled",)] == 7e9
    assert found["zoetrope_condition_cache_bytes", ("media",)] == 9
    lookups = "zoetrope_condition_cache_lookups_total"
    assert [found[lookups, ("media", outcome)] for outcome in ("hits", "misses")] == [5, 2]


def test_calls_are_counted_by_method_and_code(service: Service) -> None:
    def counted() -> dict[str, float]:
        found = samples(service)
        calls = {
            "made": ("zoetrope_requests_total", ("grpc", "OK", "VideoService/CreateVideo")),
            "refused": ("zoetrope_requests_total", ("grpc", "INVALID_ARGUMENT", "VideoService/CreateVideo")),
            "timed": ("zoetrope_request_seconds_count", ("grpc", "VideoService/CreateVideo")),
            "accepted": ("zoetrope_submissions_total", ("grpc", "accepted")),
            "invalid": ("zoetrope_submissions_total", ("grpc", "invalid")),
            "listed": ("zoetrope_requests_total", ("http", "200", "GET /v1/models")),
            "lost": ("zoetrope_requests_total", ("http", "404", "unknown address")),
            "odd": ("zoetrope_requests_total", ("http", "405", "other method /v1/models")),
        }
        return {name: found.get(at, 0.0) for name, at in calls.items()}

    before = counted()
    service.videos.CreateVideo(text_request())
    with pytest.raises(grpc.RpcError):
        service.videos.CreateVideo(text_request(steps=-5))
    assert httpx.get(service.http + "/v1/models").status_code == 200
    for number in range(3):
        assert httpx.get(f"{service.http}/v1/nowhere/{number}").status_code == 404
        assert httpx.request(f"ODD{number}", service.http + "/v1/models").status_code == 405
    assert {name: value - before[name] for name, value in counted().items()} == {
        "made": 1, "refused": 1, "timed": 2, "accepted": 1, "invalid": 1, "listed": 1, "lost": 3, "odd": 3
    }  # fmt: skip


def test_probes_are_not_counted(service: Service) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        httpx.get(service.http + path)
    assert not [at for at in samples(service) if at[0] == "zoetrope_requests_total" and "health" in str(at[1])]


def test_failures_are_counted_from_the_first_call_on(service: Service) -> None:
    """At 0, so that Prometheus sees the first one as a change."""
    service.videos.CreateVideo(text_request())
    httpx.get(service.http + "/v1/models")
    found = samples(service)
    assert ("zoetrope_requests_total", ("grpc", "DATA_LOSS", "VideoService/CreateVideo")) in found
    assert ("zoetrope_requests_total", ("http", "503", "GET /v1/models")) in found
    assert ("zoetrope_submissions_total", ("grpc", "unavailable")) in found
