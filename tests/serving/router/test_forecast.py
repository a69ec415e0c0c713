"""Foreseeing when jobs will be done: a pure function, compared with what steps and stages would take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.serving.router.costs import nano_costs
from zoetrope.cluster.planning.step_costs import Load
from zoetrope.serving.router.forecast import FOLLOWED, Awaited, Foreseen, House, Runner, forecast

COSTS = nano_costs()
ENGINE = Runner("e1", 1, 100_000, 1, COSTS)
LARGE = Load(4_096, 2)  # of which each fills a step by itself
TINY = Load(16, 2)  # which share steps
STEP, TINY_STEP = COSTS.seconds([LARGE]), COSTS.seconds([TINY])
HOUSE = House(room=8, conditioners=4, decoders=1)
QUEUED = Awaited("a", "", 0.0, LARGE, 8_192, 10, before=0.5, after=0.25, cost=10 * STEP + 0.75)
HELD = replace(QUEUED, before=0.0, claimed=True, ready=True, engine="e1")


def seconds(found: dict[str, Foreseen]) -> dict[str, float]:
    return {job_id: one.eta for job_id, one in found.items()}


def test_a_job_alone_goes_through_all_stages() -> None:
    one = forecast([QUEUED], [ENGINE], HOUSE)["a"]
    assert (one.place, one.why) == (0, "")
    assert (one.start, one.eta) == pytest.approx((0.5, 0.5 + 10 * STEP + 0.25))
    assert seconds(forecast([replace(HELD, steps=4)], [ENGINE], HOUSE)) == {"a": pytest.approx(4 * STEP + 0.25)}
    part = replace(ENGINE, elapsed=0.5 * STEP)
    assert seconds(forecast([replace(HELD, steps=4)], [part], HOUSE)) == {"a": pytest.approx(3.5 * STEP + 0.25)}
    decoding = replace(HELD, engine=None, ready=False, decoding=True)
    assert seconds(forecast([decoding], [ENGINE], HOUSE)) == {"a": 0.25}


def test_large_jobs_run_in_the_order_of_the_policy_and_small_ones_share_steps() -> None:
    jobs = [replace(QUEUED, id=name, before=0.0) for name in "abc"]
    found = forecast(jobs, [ENGINE], HOUSE)
    assert seconds(found) == {name: pytest.approx(10 * STEP * (i + 1) + 0.25) for i, name in enumerate("abc")}
    assert [found[name].place for name in "abc"] == [0, 1, 2]
    small = [replace(job, load=TINY, peak_tokens=32) for job in jobs]
    together = COSTS.seconds([TINY] * 3)
    assert together < 2.8 * TINY_STEP
    found = forecast(small, [ENGINE], HOUSE)
    assert found["a"].eta == pytest.approx(10 * together + 0.25)
    assert found["c"].eta == pytest.approx(10 * together + 0.75)  # one decoder has three to decode


def test_what_is_more_urgent_goes_on_in_place_of_what_is_held() -> None:
    urgent = replace(QUEUED, id="u", before=0.0, steps=2)
    assert seconds(forecast([urgent, HELD], [ENGINE], HOUSE)) == {
        "u": pytest.approx(2 * STEP + 0.25),
        "a": pytest.approx(12 * STEP + 0.25),
    }
    calm = forecast([urgent, HELD], [replace(ENGINE, step_tokens=9_000)], replace(HOUSE, preempts=False))
    assert seconds(calm) == {"a": pytest.approx(10 * STEP + 0.25), "u": pytest.approx(12 * STEP + 0.25)}


def test_engines_share_the_queue() -> None:
    jobs = [replace(QUEUED, id=f"j{i}", before=0.0, after=0.0) for i in range(4)]
    two = [ENGINE, replace(ENGINE, id="e2")]
    found = forecast(jobs, two, HOUSE)
    assert sorted(seconds(found).values()) == pytest.approx([10 * STEP, 10 * STEP, 20 * STEP, 20 * STEP])


def test_more_jobs_than_a_router_takes_wait_to_be_claimed() -> None:
    jobs = [replace(QUEUED, id=f"j{i}", load=TINY, peak_tokens=32, before=0.0) for i in range(3)]
    found = forecast(jobs, [ENGINE], replace(HOUSE, room=1))
    each = 10 * TINY_STEP + 0.25
    assert seconds(found) == {f"j{i}": pytest.approx((i + 1) * each) for i in range(3)}


def test_jobs_far_behind_follow_at_the_pace_of_those_before() -> None:
    jobs = [replace(QUEUED, id=f"j{i}", created_at=float(i), before=0.0) for i in range(4 * FOLLOWED)]
    found = forecast(jobs, [ENGINE], HOUSE)
    assert [found[job.id].place for job in jobs] == list(range(len(jobs)))
    for number in (FOLLOWED - 1, FOLLOWED, 2 * FOLLOWED, 4 * FOLLOWED - 1):
        assert found[f"j{number}"].eta == pytest.approx(10 * STEP * (number + 1), rel=0.05)


def test_why_jobs_wait() -> None:
    ready = replace(HELD, engine=None)
    jobs = [
        HELD,
        replace(ready, id="needs", load=replace(LARGE, adapters=1), adapters=("two",)),
        replace(QUEUED, id="mine", tenant="a", created_at=1.0),
        replace(QUEUED, id="theirs", tenant="b", created_at=2.0),
        replace(QUEUED, id="more", tenant="a", created_at=1.5),
        replace(QUEUED, id="encoding", claimed=True, before=0.2),
    ]
    found = forecast([replace(jobs[0], adapters=("one",)), *jobs[1:]], [ENGINE], HOUSE)
    assert {name: one.why for name, one in found.items()} == {
        "a": "",
        "needs": "slot",
        "mine": "ahead",
        "theirs": "ahead",
        "more": "share",  # a newer job of another tenant goes before it
        "encoding": "conditioning",
    }


def test_without_an_engine_a_job_waits_for_one() -> None:
    assert forecast([QUEUED], [], HOUSE) == {}
    assert forecast([], [ENGINE], HOUSE) == {}
    jobs = [QUEUED, replace(QUEUED, id="b")]
    cost = QUEUED.cost
    assert forecast(jobs, [], replace(HOUSE, cold=60.0)) == {
        "a": Foreseen(60.0 + cost, 60.0, 0, "engine"),
        "b": Foreseen(60.0 + cost + cost, 60.0 + cost, 1, "engine"),
    }
