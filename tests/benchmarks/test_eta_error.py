"""The error of estimates: what is asked of a service, and what is made of its answers."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from zoetrope.benchmarks.eta_error import Sample, markdown, prices, summarise, trace
from zoetrope.serving.client import OperationStatus

DONE = OperationStatus(
    name="operations/a",
    state="succeeded",
    step=6,
    steps=6,
    queue_position=0,
    eta_seconds=None,
    model="nano",
    create_time=100.0,
    start_time=104.0,
    end_time=120.0,
    attempt=1,
    cancel_requested=False,
    done=True,
    error=None,
    video=None,
)


def test_the_trace_is_the_same_each_time_and_mixed() -> None:
    plan = trace(40, Path("picture.png"))
    assert plan == trace(40, Path("picture.png")) and len(plan) == 40
    assert len({at for at, _ in plan}) == 5  # bursts
    for field, kinds in (("size", 3), ("frames", 3), ("steps", 3), ("seed", 40)):
        assert len({fields[field] for _, fields in plan}) == kinds
    assert len({fields["task"]["kind"] for _, fields in plan}) == 4


def test_an_error_is_a_share_of_the_duration() -> None:
    queued = [Sample("queued", 101.0, 21.0, 15.0, 30.0), Sample("queued", 103.0, 15.0, 14.0, 16.0)]  # + 2 s, - 2 s
    running = [Sample("running", 110.0, 10.0, 9.0, 12.0)]
    failed = replace(DONE, state="failed")
    one, two = summarise([(DONE, [*queued, *running]), (failed, queued)])
    assert (one.stage, one.jobs, one.samples) == ("queued", 1, 2)
    assert (one.median, one.bias, one.within) == pytest.approx((0.1, 0.0, 0.5))
    assert (two.stage, two.median, two.within) == ("running", 0.0, 1.0)
    about = {"jobs": 1, "warm_up": 1, "processor": "a CPU", "usable_cores": 2, "idle": True}
    record = {
        "environment": {"commit": "0", "changed": False, "command": "it"},
        "measured_on": about,
        "rows": [asdict(one), asdict(two)],
        "goal_met": True,
        "price": None,
    }
    assert "| queued | 1 | 2 | 10.0 % | 10.0 % | 0.0 % | 50.0 % |" in markdown(record)


def test_the_error_of_a_price_is_a_share_of_what_was_used() -> None:
    paid = [(9.5, 10.0), (2.16, 2.0), (12.0, 10.0)]
    jobs = [replace(DONE, price_gpu_seconds=price, used_gpu_seconds=used) for price, used in paid]
    found = prices([*jobs, DONE, replace(jobs[0], state="failed", used_gpu_seconds=1.0)])
    assert found is not None and found.jobs == 3
    assert (found.median, found.p90, found.within, found.total) == pytest.approx(
        (0.08, 0.2, 2 / 3, 23.66 / 22 - 1), abs=1e-4
    )
    assert prices([DONE]) is None, "nothing was priced"
