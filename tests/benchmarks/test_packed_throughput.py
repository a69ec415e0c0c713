"""The jobs that the throughput of small ones is measured with, and what is made of the engine's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.packed_throughput import report
from zoetrope.benchmarks.packed_throughput.served import ServedRun, run_of
from zoetrope.benchmarks.packed_throughput.work import dense_jobs, mixed_jobs
from zoetrope.model.request.tasks import parse_request


def step(end: float, seconds: float, segments: int = 2) -> dict[str, Any]:
    return {"end": end, "seconds": seconds, "tokens": 10, "segments": segments}


def test_the_engine_is_busy_for_as_long_as_its_steps_take() -> None:
    noted = [step(9.0, 1.0), step(12.0, 1.0, 1), step(13.0, 1.0, 3), step(15.5, 2.0, 5), step(99.0, 1.0)]
    run = run_of(noted, started=10.0, ended=20.0)
    assert run == ServedRun(makespan=10.0, busy=4.0, denoising=4.5, steps=3, segments=3.0, longest_pause=0.5)
    assert (run.busy_share, run.dense_share) == (0.4, 4 / 4.5)


def test_a_run_without_steps_is_no_result() -> None:
    with pytest.raises(BenchmarkError, match="no step was noted"):
        run_of([step(9.0, 1.0)], started=10.0, ended=20.0)


def test_the_jobs_differ_in_task_shape_length_and_steps() -> None:
    jobs = [parse_request({"duration_seconds": None, **job}) for job in mixed_jobs(40, Path("media"))]
    assert len({job.task.kind for job in jobs}) == 4
    assert len({job.ratio for job in jobs if job.task.kind == "text_to_video"}) == 4
    assert [len({getattr(job, name) for job in jobs}) for name in ("steps", "seed")] == [3, 40]
    assert mixed_jobs(40, Path("media")) == mixed_jobs(40, Path("media"))
    sizes = {(job["size"], job["frames"], job["steps"]) for job in dense_jobs(40)}
    assert len(sizes) == 36, "each size in each length with each step count"


def test_the_page_says_the_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_COMMIT", "0123abc")  # else it asks git
    alone, together = ServedRun(100.0, 60.0, 90.0, 500, 1.0, 0.5), ServedRun(40.0, 36.0, 37.0, 60, 8.0, 0.1)
    about = {"processor": "a processor", "usable_cores": 2, "load_average": [0.1], "idle": True}
    diffusers = {1: 90.0, 2: 80.0}
    values = report.record("python -m ...", about, 40, (alone, together), (alone, together), diffusers, 1e-7)
    assert values["ratio_to_diffusers"] == 2.0 and values["dense"]["threads"] == 2
    assert values["nano"]["ratio"] == 2.5 and values["nano"]["together"]["busy_of_denoising"] == 36 / 37
    page = report.markdown(values)
    assert "97.3 %" in page and "90.0 %" in page and "1 / 2.00" in page and "2 threads: 80.00 s" in page
