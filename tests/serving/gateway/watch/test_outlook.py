"""What is told of a job's future."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serving.jobs.harness import LIMITS, new_job
from zoetrope.serving.gateway.watch.outlook import Outlook, foreseen, moved, waiting_words
from zoetrope.serving.jobs.forecast_table import JobForecast
from zoetrope.serving.jobs.job import Stage, State
from zoetrope.serving.jobs.open import open_stores


@pytest.mark.parametrize(
    ("why", "place", "seconds", "words"),
    [
        ("ahead", 3, 41.0, "waiting for 3 jobs ahead, about 40 s"),
        ("ahead", 1, 6.4, "waiting for 1 job ahead, about 6 s"),
        ("ahead", 0, 0.2, "waiting for running jobs, about 1 s"),
        ("share", 9, 200.0, "its tenant's share is used by its other jobs, about 3 min"),
        ("slot", 0, 7_300.0, "waiting for an adapter slot, about 2 h"),
        ("engine", 0, 0.0, "waiting for an engine to start"),
        ("engine", 2, 60.0, "waiting for an engine to start, about 1 min"),
        ("conditioning", 0, 1.0, ""),
        ("", 0, 0.0, ""),
    ],
)
def test_why_a_job_waits(why: str, place: int, seconds: float, words: str) -> None:
    assert waiting_words(why, place, seconds) == words


def test_an_estimate_that_only_runs_down_is_no_news() -> None:
    before = Outlook(1, 60.0)
    assert not moved(before, Outlook(1, 50.0), 10.0)
    assert not moved(before, Outlook(1, 54.0), 10.0)  # within a tenth
    assert moved(before, Outlook(1, 58.0), 10.0)
    assert moved(before, Outlook(1, None), 10.0)
    assert not moved(Outlook(1, None), Outlook(1, None), 10.0)


def test_what_holds_a_job_up_goes_before_what_it_waits_for(tmp_path: Path) -> None:
    with closing(open_stores(f"sqlite://{tmp_path}/jobs.db")) as stores:
        job = stores.jobs.create(new_job("a"), LIMITS)
    ahead, cold = JobForecast(40.0, 30.0, 60.0, 2, 20.0, "ahead"), JobForecast(90.0, 60.0, 120.0, 2, 60.0, "engine")
    nobody = "no engine serves nano now"
    assert foreseen(job, ahead, "").notice == "waiting for 2 jobs ahead, about 20 s"
    assert foreseen(job, ahead, nobody).notice == nobody
    assert foreseen(job, cold, nobody).notice == "waiting for an engine to start, about 1 min"
    assert foreseen(replace(job, notice="waiting for the store"), cold, nobody).notice == "waiting for the store"
    running = replace(job, state=State.RUNNING, stage=Stage.DENOISING, step=3)
    assert foreseen(running, ahead, "") == Outlook(0, 40.0, "", 30.0, 60.0)
