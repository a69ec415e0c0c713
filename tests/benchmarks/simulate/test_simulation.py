"""The simulation, against cases that can be worked out by hand, and a queue whose waits are known from theory."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.benchmarks.simulate.harness import ends, fleet_of, job, simulation
from zoetrope.benchmarks.simulate.fleet import StageSeconds
from zoetrope.benchmarks.simulate.generate import TraceRecipe, generate
from zoetrope.benchmarks.simulate.jobs import StepRun
from zoetrope.cluster.engine.engine import LEAD_SECONDS, SHORT_SECONDS
from zoetrope.serving.router.policies.policy import registered

POLICIES = ("edf", "fair", "fifo", "round_robin", "srpt")


def test_every_policy_is_simulated() -> None:
    assert sorted(registered()) == list(POLICIES)


def test_first_come_first_served_is_as_by_hand() -> None:
    # One GPU, a second a step: 0-4, then 4-6 although it came before 1, then 6-9; the last finds it idle.
    trace = [job(0.0, 4), job(0.5, 2), job(1.5, 3), job(20.0, 1)]
    assert ends(trace, fleet_of(1), "fifo") == [4.0, 6.0, 9.0, 21.0]
    # Two engines: the second job need not wait, and the third follows it.
    assert ends(trace, fleet_of(1, 1), "fifo") == [4.0, 2.5, 5.5, 21.0]
    # Room for all of them in a step, which takes a second for each: 1 alone, one of two, then three at a time.
    assert ends(trace[:3], fleet_of(1), "fifo", step_tokens=10**6) == [8.0, 6.0, 9.0]


def test_short_work_interrupts_long_work_between_steps_and_costs_it_no_more_than_its_own_time() -> None:
    trace = [job(0.0, 10), job(2.5, 2)]
    found = simulation(trace, fleet_of(1), "srpt")
    outcomes = found.run()
    assert [outcome.done for outcome in outcomes] == [12.0, 5.0], "the step that ran from 2 to 3 is not cut short"
    assert [outcome.preemptions for outcome in outcomes] == [1, 0]
    assert found.figures()["steps"] == 12


def test_what_engines_ask_ahead_for_delays_what_arrives_by_a_step() -> None:
    """It asks a moment before a step ends."""
    at_last = 3.0 - LEAD_SECONDS / 2
    assert ends([job(0.0, 10), job(at_last, 2)], fleet_of(1), "srpt") == [12.0, 6.0]
    short = StepRun([], 0.0, SHORT_SECONDS / 2, 100, [])
    assert [short.settled(now) for now in (0.0, 1.2 * short.seconds)] == [2, 3], "it has asked already"


def test_a_small_clip_is_decoded_before_large_ones_that_wait() -> None:
    stages = StageSeconds(text=0.0, encode=0.0, decode=0.5 / (832 * 480 * 49 / 1e6))
    large = [job(0.0, 1, width=1664, height=960) for _ in range(3)]
    narrow = fleet_of(*[1] * 4, stages=stages, decoders=1)
    small = job(0.5, 1)
    found = {policy: ends([*large, small], narrow, policy)[-1] for policy in ("fifo", "srpt", "fair")}
    assert found == {"fifo": 7.5, "srpt": 7.5, "fair": 3.5}


def test_the_other_stages_take_their_time_and_queue_for_their_servers() -> None:
    stages = StageSeconds(text=1.0, encode=0.0, decode=0.0, every=2.0)
    trace = [job(0.0, 3), job(0.0, 3)]
    wide = fleet_of(1, 1, stages=stages)
    assert ends(trace, wide, "fifo") == [6.0, 6.0]
    narrow = fleet_of(1, 1, stages=stages, conditioners=1, decoders=1)
    assert ends(trace, narrow, "fifo") == [6.0, 7.0], "both are there at 2, and one waits for the conditioner until 3"


def test_a_router_claims_only_so_many_jobs_in_the_order_of_its_policy() -> None:
    trace = [job(0.0, 4), job(0.5, 6), job(0.6, 2)]
    wide = fleet_of(1, 1, 1)
    assert ends(trace, wide, "srpt") == [4.0, 6.5, 2.6]
    assert ends(trace, wide, "srpt", max_running=1) == [4.0, 12.0, 6.0]


def test_long_clips_are_chained() -> None:
    # 241 frames of a model that makes 121 at a time: two segments of three steps, and what is decoded between them.
    outcome = simulation([job(0.0, 3, frames=241)], fleet_of(1), "fifo").run()[0]
    assert outcome.done == 6.0 and outcome.solo == 6.0
    between = fleet_of(1, stages=StageSeconds(text=1.0, encode=0.0, decode=0.0))
    assert ends([job(0.0, 3, frames=241)], between, "fifo") == [8.0]


def test_a_job_past_its_deadline_fails_and_frees_its_engine() -> None:
    trace = [job(0.0, 10, deadline=3.5), job(1.0, 2)]
    found = simulation(trace, fleet_of(1), "fifo").run()
    assert [(outcome.done, outcome.failed) for outcome in found] == [(None, True), (6.0, False)]


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waits_of_one_server_with_equal_jobs_are_those_of_theory(load: float) -> None:
    """M/D/1: the mean wait is load x service / (2 (1 - load)) (Pollaczek and Khinchine)."""
    service, jobs, chance = 4.0, 1_500, random.Random(11)
    at, trace = 0.0, []
    for _ in range(jobs):
        at += chance.expovariate(load / service)
        trace.append(job(at, 4))
    outcomes = simulation(trace, fleet_of(1), "fifo", quantum=100.0).run()
    waits = [(outcome.done or 0.0) - outcome.arrival - service for outcome in outcomes]
    assert sum(waits) / jobs == pytest.approx(load * service / (2 * (1 - load)), rel=0.15)


def mixed(seconds: float = 100.0) -> list[Any]:
    return generate(TraceRecipe(rate=0.5, seconds=seconds, arrivals="bursty", burst=5, tenants=3, seed=4))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_job_ends_once_whatever_fails(policy: str) -> None:
    trace = mixed()
    fleet = fleet_of(8, 4, 2, real=True, failures=0.1, restart=20.0, cold=True, stages=StageSeconds())
    found = simulation(trace, fleet, policy, step_tokens=100_000, noise=0.1)
    outcomes, figures = found.run(), found.figures()
    assert figures["finished"] == len(trace) == len(outcomes) and figures["failures"] > 5
    for outcome in outcomes:
        assert outcome.first_step is not None and outcome.done is not None
        assert 20.0 <= outcome.first_step < outcome.done, "engines start cold"
    busy = figures["gpu_seconds_used"]
    assert sum(outcome.used for outcome in outcomes) == pytest.approx(busy, rel=0.05), "what failed in a step is lost"
    assert 0 < figures["redone_gpu_seconds"] < busy


@pytest.mark.parametrize("policy", ["fair", "fifo"])
def test_a_seed_gives_one_result(policy: str) -> None:
    def figures(seed: int) -> dict[str, Any]:
        fleet = fleet_of(8, 2, real=True, failures=1.0, stages=StageSeconds())
        found = simulation(mixed(60.0), fleet, policy, step_tokens=100_000, noise=0.1, seed=seed)
        found.run()
        return {name: value for name, value in found.figures().items() if name != "decision_ms"}

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)


def test_a_simulation_can_be_stopped_before_all_is_done() -> None:
    found = simulation([job(0.0, 4), job(0.0, 4)], fleet_of(1), "fifo", until=5.0)
    assert [outcome.done for outcome in found.run()] == [4.0, None]
    assert found.figures()["slo_attainment"] == 0.5


def test_decisions_are_timed() -> None:
    found = simulation([job(0.0, 4)], fleet_of(1), "fair")
    found.run()
    assert found.figures()["decisions"] > 0 and found.figures()["decision_ms"]["max"] > 0
