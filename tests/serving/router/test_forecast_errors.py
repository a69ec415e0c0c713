"""How far forecasts were off, and what is made of it."""

from __future__ import annotations

import pytest

from zoetrope.serving.router.forecast_errors import PHASES, SAMPLES, ForecastErrors


def play(errors: ForecastErrors, count: int, raw: float, left: float) -> None:
    """Jobs that were created 5 s before they were forecast, and took ``left`` seconds from then on."""
    for number in range(count):
        errors.note(f"job {number}", "queued", 5.0, raw, raw)
        errors.ended(f"job {number}", 0.0, 5.0 + left, succeeded=True)


def test_estimates_follow_what_came_of_earlier_ones() -> None:
    errors = ForecastErrors()
    low, middle, high = errors.spread("queued")
    assert low < middle < high and middle == pytest.approx(1.0)
    play(errors, SAMPLES, raw=10.0, left=15.0)
    assert errors.spread("queued") == pytest.approx((1.5, 1.5, 1.5), rel=0.01)
    assert errors.spread("decoding") == (low, middle, high)  # of which nothing was learned
    play(errors, SAMPLES // 2, raw=10.0, left=5.0)
    low, middle, high = errors.spread("queued")
    assert (low, high) == pytest.approx((0.5, 1.5), rel=0.02) and low <= middle <= high


def test_only_the_first_estimate_in_a_phase_counts_and_only_of_jobs_that_succeed() -> None:
    errors = ForecastErrors()
    before = errors.spread("queued")
    errors.note("a", "queued", 0.0, 10.0, 12.0)
    errors.note("a", "queued", 5.0, 99.0, 99.0)
    errors.note("b", "queued", 0.0, 10.0, 12.0)
    errors.ended("b", 0.0, 40.0, succeeded=False)
    assert errors.spread("queued") == before and [counted(errors, phase) for phase in PHASES] == [0, 0, 0, 0]
    errors.ended("a", -6.0, 10.0, succeeded=True)
    error = errors.to_dict()["errors"]["queued"]
    assert error["sum"] == pytest.approx(2.0 / 16.0)  # told 12 s, took 10, of 16 s in all
    assert [count for bound, count in error["buckets"] if bound in ("0.1", "0.15", "+Inf")] == [0, 1, 1]
    errors.note("c", "queued", 0.0, 10.0, 12.0)
    errors.keep({"d"})
    errors.ended("c", 0.0, 10.0, succeeded=True)
    assert counted(errors, "queued") == 1


def counted(errors: ForecastErrors, phase: str) -> int:
    """How many estimates of a phase the histogram holds; there is one of each phase from the start."""
    bound, count = errors.to_dict()["errors"][phase]["buckets"][-1]
    assert bound == "+Inf"
    return int(count)
