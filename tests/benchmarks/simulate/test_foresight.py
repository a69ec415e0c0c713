"""The router's forecast, asked by a simulation and held against what then happens there."""

from __future__ import annotations

import pytest

from tests.benchmarks.simulate.harness import fleet_of, job, simulation
from zoetrope.benchmarks.simulate.fleet import StageSeconds


def test_the_end_of_a_queue_is_foreseen_on_arrival() -> None:
    # One engine, one job at a time: what comes later waits for all that is there, and for its own stages.
    stages = StageSeconds(text=0.5, encode=0.0, decode=0.0)
    trace = [job(0.0, 10), job(1.25, 10), job(2.25, 10), job(3.25, 10)]
    found = simulation(trace, fleet_of(1, stages=stages), "fifo", etas=4)
    for outcome in found.run():
        assert outcome.latency is not None and outcome.eta == pytest.approx(outcome.latency, rel=0.05)
    error = found.figures()["eta_error"]
    assert error is not None and error < 0.05


def test_nothing_is_foreseen_unless_it_is_asked_for() -> None:
    found = simulation([job(0.0, 4)], fleet_of(1), "fifo")
    assert found.run()[0].eta is None
    assert found.figures()["eta_error"] is None
