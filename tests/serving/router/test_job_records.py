"""What metrics and traces tell of jobs in a router."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.telemetry.spans import PARENT, kept_spans, parent_of
from tests.serving.jobs.harness import LIMITS, RESULT, claim, new_job
from zoetrope.cluster.telemetry.catalogue import REGISTRY
from zoetrope.cluster.telemetry.logs import JsonFormatter
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.router.job_database import Ending
from zoetrope.serving.router.job_records import note_claim, note_end, note_ending, note_models, recorded


@pytest.fixture
def job(tmp_path: Path) -> Job:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    spec = {"task": {"kind": "edit_video", "prompt": "a red circle"}}
    stores.jobs.create(new_job("a", spec=spec, traceparent=PARENT), LIMITS)
    (claimed,) = claim(stores.jobs)
    stores.close()
    return replace(claimed, created_at=time.time() - 40)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"zoetrope_{name}", labels) or 0.0


def test_the_first_claim_ends_the_wait_and_a_later_one_goes_on(job: Job) -> None:
    waited = value("job_queue_seconds_count", model="nano", task="edit_video")
    resumed = value("jobs_resumed_total")
    with kept_spans() as kept:
        note_claim(replace(job, lease_epoch=1_000_001), first=True)  # as after a restore
        note_claim(replace(job, lease_epoch=2), first=False)
        (span,) = kept.get_finished_spans()
    assert value("job_queue_seconds_count", model="nano", task="edit_video") == waited + 1
    assert value("jobs_resumed_total") == resumed + 1
    assert span.name == "queued" and parent_of(span) == "00f067aa0ba902b7"
    assert span.start_time is not None and span.end_time is not None
    assert 39e9 < span.end_time - span.start_time < 60e9


@pytest.mark.parametrize(
    ("ending", "state", "code"),
    [
        (Ending(State.SUCCEEDED, RESULT), "succeeded", "OK"),
        (Ending(State.FAILED, error_code="INTERNAL", error_message="of a red circle"), "failed", "INTERNAL"),
        (Ending(State.CANCELLED), "cancelled", "OK"),
    ],
)
def test_an_end_is_counted_by_what_it_was(job: Job, ending: Ending, state: str, code: str) -> None:
    ended = value("jobs_ended_total", model="nano", state=state, code=code)
    took = value("job_seconds_sum", model="nano", task="edit_video", state=state)
    note_end(job, ending)
    assert value("jobs_ended_total", model="nano", state=state, code=code) == ended + 1
    assert 39 < value("job_seconds_sum", model="nano", task="edit_video", state=state) - took < 60
    with kept_spans() as kept:
        with recorded(job) as made:
            assert note_ending(made, ending) is ending
        (span,) = kept.get_finished_spans()
    told = dict(span.attributes or {})
    assert (told["zoetrope.state"], told.get("error.type")) == (state, code if state == "failed" else None)
    assert "circle" not in span.to_json()


def test_lines_about_a_job_name_it_and_its_trace(job: Job) -> None:
    formatter = JsonFormatter(str)

    def line() -> dict[str, Any]:
        made: dict[str, Any] = json.loads(formatter.format(logging.LogRecord("x", 20, "", 1, "hello", None, None)))
        return made

    with recorded(job):
        found = line()
    assert (found["job"], found["trace"], found["epoch"]) == ("a", PARENT[3:35], 1)
    assert "job" not in line()


def test_ends_are_counted_from_the_start() -> None:
    """So that Prometheus sees a model's first failure as a change."""
    note_models(["unused"])
    ends = [("succeeded", "OK"), ("cancelled", "OK"), ("failed", "INTERNAL"), ("failed", "DEADLINE_EXCEEDED")]
    for state, code in ends:
        labels = {"model": "unused", "state": state, "code": code}
        assert REGISTRY.get_sample_value("zoetrope_jobs_ended_total", labels) == 0
