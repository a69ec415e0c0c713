"""What becomes of all the work under each policy, on engines that take no time."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.serving.router.policy_run import COSTS, PolicyRun, job
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.policies.fair import PRIORITY_SECONDS, SLOWDOWN
from zoetrope.serving.router.policies.work import Work

POLICIES = ("fair", "fifo", "srpt", "edf", "round_robin")

arrivals = st.lists(
    st.builds(
        lambda tenant, tokens, steps, at, wait, priority, adapters: (
            tenant, tokens, steps, at, None if wait is None else at + wait, priority, adapters
        ),
        st.sampled_from("abc"),
        st.sampled_from([20, 60, 200, 1_500]),
        st.integers(1, 6),
        st.floats(0, 5),
        st.none() | st.floats(0.1, 60),
        st.integers(0, 9),
        st.sampled_from([(), (), ("ink",), ("oil",), ("pixels",)]),
    ),
    min_size=1,
    max_size=14,
)  # fmt: skip


def jobs_of(drawn: list[tuple[str, int, int, float, float | None, int, tuple[str, ...]]]) -> list[Work]:
    return [
        job(f"w{n}", tokens, steps, at, tenant=tenant, deadline=deadline, priority=priority, adapters=adapters)
        for n, (tenant, tokens, steps, at, deadline, priority, adapters) in enumerate(drawn)
    ]


@given(st.sampled_from(POLICIES), arrivals, st.integers(1, 3), st.sampled_from([100, 1_000]), st.integers(1, 2))
@settings(max_examples=draws(60), deadline=None)
def test_all_work_is_done_once_and_the_same_way_again(
    policy: str,
    drawn: list[Any],
    engines: int,
    step_tokens: int,
    slots: int,
) -> None:
    """`PolicyRun` asserts that no work is on two engines, that no engine idles while work waits, and the budgets."""
    work = jobs_of(drawn)
    first, again = (PolicyRun(policy, engines, step_tokens, slots) for _ in range(2))
    first.run(work)
    again.run(work[::-1])
    assert {*first.ended} == {one.id for one in work}
    assert (first.ended, first.steps) == (again.ended, again.steps)


@given(st.floats(1.0, 2.0), st.sampled_from([60, 200]), st.integers(3, 6), st.booleans())
@settings(max_examples=draws(6), deadline=None)
def test_large_work_is_done_in_time_however_much_small_work_comes(
    load: float, tokens: int, steps: int, urgent: bool
) -> None:
    """Even if more comes than can be done, for ever, and all of it has a deadline."""
    large = job("large", 1_500, 3)
    small = job("s", tokens, steps)
    count = int(3 * SLOWDOWN * load * large.remaining / small.remaining)
    wait = 2 * small.remaining if urgent else None
    stream = [
        job(f"s{n}", tokens, steps, at, deadline=None if wait is None else at + wait)
        for n in range(count)
        for at in [n * small.remaining / load]
    ]
    run = PolicyRun("fair")
    run.run([large, *stream], until=stream[-1].created_at)
    # All that is due before it came before then, and only that is done before it; sharing steps only saves.
    due = SLOWDOWN * large.remaining
    assert run.ended["large"] <= load * due + 2 * large.remaining + small.remaining


def test_a_tenant_with_much_work_delays_anothers_by_one_job_at_most() -> None:
    one = job("one", 1_500, 3)
    flood = [job(f"a{n:03}", 1_500, 3, tenant="a") for n in range(60)]
    for at in (0.01, 7.3, 20.0):
        run = PolicyRun("fair")
        run.run([*flood, job("b", 1_500, 3, at, tenant="b")], until=at + 5 * one.remaining)
        assert run.ended["b"] - at <= 2 * one.remaining + COSTS.seconds([one.load]), f"it came at {at}"
    fifo = PolicyRun("fifo", step_tokens=1_500)
    fifo.run([*flood, job("b", 1_500, 3, 0.01, tenant="b")])
    assert fifo.ended["b"] > 50 * one.remaining


def test_a_flood_of_deadlines_costs_no_other_tenant_its_own() -> None:
    """What cannot be met any more gives way; by deadlines alone it would come first."""
    one = job("one", 1_500, 3)
    flood = [job(f"a{n:03}", 1_500, 3, tenant="a", deadline=10 * one.remaining) for n in range(60)]
    at = 2 * one.remaining
    due = at + 10 * one.remaining
    mine = job("b", 1_500, 3, at, tenant="b", deadline=due)
    ended = {}
    for policy in ("fair", "edf"):
        run = PolicyRun(policy, step_tokens=1_500)
        run.run([*flood, mine])
        ended[policy] = run.ended["b"] <= due, sum(run.ended[a.id] <= 10 * one.remaining for a in flood)
    assert ended == {"fair": (True, 9), "edf": (False, 10)}, "its own, and then what is left of the time"


def test_a_tenant_that_waits_for_nothing_saves_nothing_up() -> None:
    """One whose work is all on engines has no claim on what others used meanwhile."""
    one = job("one", 1_500, 3)
    work = [job("b0", 1_500, 90, tenant="b")]
    work += [job(f"a{n:02}", 1_500, 3, 0.1, tenant="a") for n in range(80)]
    back = 20 * one.remaining
    work += [job(f"b{n:02}", 1_500, 3, back, tenant="b") for n in range(1, 11)]
    run = PolicyRun("fair", engines=2, step_tokens=1_500)
    run.run(work, until=back + 5.5 * one.remaining)
    since = [name for name, at in run.ended.items() if at > back]
    assert 4 <= sum(name.startswith("b") for name in since) <= 7, since


def test_shares_go_by_weight() -> None:
    run = PolicyRun("fair")
    run.backlog.policy.weights = {"a": 3.0}
    run.run([job(f"{tenant}{n:02}", 1_500, 2, tenant=tenant) for tenant in "ab" for n in range(40)], until=60.0)
    done = [sum(name.startswith(tenant) for name in run.ended) for tenant in "ab"]
    assert 2.4 <= done[0] / done[1] <= 3.6, done


def test_a_tenant_that_returns_has_saved_nothing_up() -> None:
    one = job("one", 1_500, 3)
    early = [job("b0", 1_500, 3, tenant="b")]
    mine = [job(f"a{n:02}", 1_500, 3, 0.1, tenant="a") for n in range(40)]
    back = 20 * one.remaining
    later = [job(f"b{n:02}", 1_500, 3, back, tenant="b") for n in range(1, 11)]
    run = PolicyRun("fair")
    run.run([*early, *mine, *later], until=back + 10.5 * one.remaining)
    since = [name for name, at in run.ended.items() if at > back]
    assert 4 <= sum(name.startswith("b") for name in since) <= 6, since


def test_small_work_waits_little_beside_large_work() -> None:
    work = [job("large 0", 4_000, 20), job("large 1", 4_000, 20, 1.0)]
    work += [job(f"s{n:02}", 40, 4, 2.0 + 0.9 * n) for n in range(40)]
    fifo, fair = PolicyRun("fifo"), PolicyRun("fair")
    waits = []
    for run in (fifo, fair):
        run.run(work)
        waits.append(mean(run.ended[one.id] - one.created_at for one in work[2:]))
    assert waits[0] > 10 * waits[1], waits
    assert max(fair.ended.values()) < 1.03 * max(fifo.ended.values()), "and nothing is lost by it"


def test_deadlines_that_can_be_met_go_first_and_the_others_last() -> None:
    hopeless = job("hopeless", 1_500, 6, deadline=1.0)
    work = [hopeless, job("tight", 1_500, 3, deadline=1.3 * job("t", 1_500, 3).remaining), job("free", 1_500, 3)]
    run = PolicyRun("fair")
    run.run(work)
    assert sorted(run.ended, key=lambda name: run.ended[name]) == ["tight", "free", "hopeless"]


@pytest.mark.parametrize("swapped", [False, True])
def test_work_does_not_wait_on_an_engine_while_another_does_less_urgent_work(swapped: bool) -> None:
    tight, loose, urgent = (
        job(i, 1_500, 30, at, deadline=at + times * job("", 1_500, 30).remaining)
        for i, at, times in (("tight", 0.0, 1.2), ("loose", 0.0, 9.0), ("urgent", 0.1, 1.1))
    )
    if swapped:
        tight, loose = replace(tight, id="z"), replace(loose, id="a")  # each is begun by the other engine
    run = PolicyRun("fair", engines=2, step_tokens=1_500)
    run.run([tight, loose, urgent])
    assert all(run.ended[one.id] <= (one.deadline or 0.0) for one in (tight, loose, urgent))


def test_a_priority_counts_among_a_tenants_own_for_hours_of_waiting() -> None:
    fair = policy_of("fair")
    old, high = job("old", 1_500, 9), job("high", 4_000, 9, 0.5 * PRIORITY_SECONDS, priority=1)
    assert fair.key(high, False) < fair.key(old, False)
    late = job("high", 4_000, 9, 1.1 * PRIORITY_SECONDS, priority=1)
    assert fair.key(late, False) > fair.key(old, False), "so that nothing starves"


@pytest.mark.parametrize("policy", ["fair", "round_robin"])
def test_priorities_have_no_effect_between_tenants(policy: str) -> None:
    run = PolicyRun(policy, step_tokens=1_500)
    run.run([job(f"a{n}", 1_500, 3, tenant="a", priority=9) for n in range(4)] + [job("b", 1_500, 3, 0.01, tenant="b")])
    assert sorted(run.ended, key=lambda name: run.ended[name]).index("b") == 1


def test_round_robin_counts_jobs_and_fair_counts_their_cost() -> None:
    work = [job(f"a{n}", 1_500, 8, tenant="a") for n in range(6)]
    work += [job(f"b{n}", 1_500, 2, tenant="b") for n in range(12)]
    done = {}
    for policy in ("round_robin", "fair"):
        run = PolicyRun(policy, step_tokens=1_500)
        run.run(work, until=4.5 * work[0].remaining)
        done[policy] = sum(name.startswith("b") for name in run.ended)
    assert done["round_robin"] <= 5 < 7 <= done["fair"]
