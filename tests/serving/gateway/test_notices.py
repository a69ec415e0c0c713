"""A job that cannot go on says why, wherever it is shown."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.serving.gateway.harness import MODEL, Collector, Service, engine, until
from zoetrope.serving.cli import main
from zoetrope.serving.jobs.job import Stage

NOBODY = f"no engine serves {MODEL} now"


def shown(service: Service, name: str) -> dict[str, str]:
    """Return what each API says of the job beside its state."""
    listed = service.client.list().operations[0]
    job_id = name.removeprefix("operations/")
    state: Any = httpx.get(f"{service.http}/dashboard/state", timeout=10).json()
    prediction: Any = httpx.get(f"{service.http}/v1/predictions/{job_id}", timeout=10).json()
    lines = prediction["logs"].splitlines()
    return {
        "get": service.client.get(name).notice,
        "list": listed.notice,
        "dashboard": state["jobs"][0]["notice"],
        "replicate": next((line for line in lines if line in (NOBODY, "the store is away")), ""),
    }


def everywhere(notice: str) -> dict[str, str]:
    return dict.fromkeys(("get", "list", "dashboard", "replicate"), notice)


def test_a_queued_job_says_that_nobody_serves_its_model(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.store.put_engine(engine(time.time(), model="another"))
    name = service.client.create(prompt="a red circle")
    watch = Collector(service.client.watch(name))
    until(lambda: shown(service, name) == everywhere(NOBODY))
    assert main(["jobs", "--server", service.target]) == 0
    assert "no engine" in capsys.readouterr().out
    service.store.put_engine(engine(time.time() + 60))
    until(lambda: shown(service, name) == everywhere(""))
    until(lambda: [event.notice for event in watch.seen] == [NOBODY, ""])
    service.store.put_engine(engine(time.time() - 60))
    until(lambda: watch.seen[-1].notice == NOBODY)
    job = service.claim(name)
    until(lambda: shown(service, name) == everywhere(""))  # conditions need no engine
    service.progress(job, Stage.DENOISING, 1)
    until(lambda: shown(service, name) == everywhere(NOBODY))
    service.store.remove_engine("engine-0")


def test_a_running_job_says_what_its_router_waits_for(service: Service) -> None:
    name = service.client.create(prompt="a red circle")
    job = service.claim(name)
    watch = Collector(service.client.watch(name))
    service.store.put_notice(job.id, job.lease_epoch, "the store is away")
    until(lambda: shown(service, name) == everywhere("the store is away"))
    # A watch tells what is, not all that was.
    until(lambda: watch.seen and watch.seen[-1].notice == "the store is away")
    service.store.put_notice(job.id, job.lease_epoch, "")
    until(lambda: shown(service, name) == everywhere(""))
    until(lambda: watch.seen[-1].notice == "")
