"""The decisions of every policy, without anything around them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.router.drawn_work import ENGINE, drawn_work, make_work
from zoetrope.serving.router.backlog import LATE_AT_ONCE, Backlog
from zoetrope.serving.router.policies.choose import policy_of
from zoetrope.serving.router.policies.work import Decision, EngineState, Work
from zoetrope.serving.router.scheduler import MAX_HELD, decide

POLICIES = ("fair", "fifo", "srpt", "edf", "round_robin")


def backlog_of(policy: str, *waiting: Work) -> Backlog:
    backlog = Backlog(policy_of(policy))
    for work in waiting:
        backlog.add(work)
    return backlog


def decision_of(policy: str, held: list[Work], waiting: list[Work], engine: EngineState = ENGINE) -> Decision:
    backlog = backlog_of(policy, *waiting)
    for work in held:
        backlog.begin(work)
    return decide(replace(engine, held=tuple(held)), backlog, 100.0)


@given(
    st.sampled_from(POLICIES),
    drawn_work("held"),
    drawn_work("waiting"),
    st.integers(10, 2_000),
    st.integers(0, 3),
)
def test_a_step_keeps_to_the_budgets_and_never_idles(
    policy: str, held: list[Work], waiting: list[Work], step_tokens: int, slots: int
) -> None:
    waiting = [work for work in waiting if slots or not work.adapters]
    kinds = sorted({work.adapters for work in held} - {()})
    held = [work for work in held if not work.adapters or work.adapters in kinds[:slots]]
    engine = replace(ENGINE, step_tokens=step_tokens, adapter_slots=slots)
    decision = decision_of(policy, held, waiting, engine)
    assert decision == decision_of(policy, held[::-1][::-1], waiting[::-1], engine), (
        "the order of arrival is in the work"
    )
    known = {work.id: work for work in (*held, *waiting)}
    there = {work.id for work in held}
    assert len({*decision.advance}) == len(decision.advance) and {*decision.advance} <= {*known}
    assert {*decision.admit} == {*decision.advance} - there, "what is admitted takes the step"
    assert {*decision.drop} <= there - {*decision.advance}
    assert bool(decision.advance) == bool(known), "an engine does not idle while there is work"
    tokens = sum(known[i].peak_tokens for i in decision.advance)
    assert tokens <= step_tokens or len(decision.advance) == 1 or not decision.admit
    if decision.admit:
        after = (there | {*decision.admit}) - {*decision.drop}
        assert len({known[i].adapters for i in after} - {()}) <= slots
        assert len(after) <= max(MAX_HELD, len(there))


@pytest.mark.parametrize("policy", ["fifo", "round_robin"])
def test_what_is_held_takes_every_step_where_nothing_is_preempted(policy: str) -> None:
    held = [make_work("x", tokens=300, created_at=5.0), make_work("y", tokens=300, created_at=6.0)]
    decision = decision_of(policy, held, [make_work("older", tokens=300)], replace(ENGINE, step_tokens=900))
    assert decision.advance == ("x", "y", "older")


def test_a_large_segment_in_front_holds_the_others_back_in_fifo() -> None:
    large, small = make_work("large", tokens=900, created_at=1.0), make_work("small", tokens=10, created_at=2.0)
    engine = replace(ENGINE, step_tokens=1_000)
    assert decision_of("fifo", [make_work("held", tokens=200)], [small, large], engine).admit == ()
    assert decision_of("fifo", [make_work("held", tokens=50)], [small, large], engine).admit == ("large", "small")


def test_small_work_passes_large_work_and_leaves_it_out() -> None:
    """What fills the engine by itself gains nothing from company, and would delay it."""
    large = make_work("large", tokens=4_000, remaining=400.0)
    small = [make_work(f"s{i}", tokens=40, remaining=1.0, created_at=90.0 + i) for i in range(3)]
    for policy in ("fair", "srpt"):
        decision = decision_of(policy, [large], small)
        assert decision.advance == ("s0", "s1", "s2") and decision.drop == ()
    decision = decision_of("edf", [large], [replace(small[0], deadline=110.0)])
    assert decision.advance == ("s0",)


def test_large_work_takes_small_work_along_when_it_is_its_turn() -> None:
    """A small segment costs a step of its own much more than its tokens do."""
    old = make_work("old", tokens=600, remaining=60.0, created_at=-1_000.0)
    decision = decision_of("fair", [old], [make_work("s", tokens=40, remaining=1.0, created_at=99.0)])
    assert decision.advance == ("old", "s")


def test_work_in_the_step_goes_on_unless_other_work_is_clearly_more_urgent() -> None:
    running, other = make_work("running", tokens=4_000, remaining=100.0), make_work("other", tokens=4_000)
    for remaining, wins in ((99.0, False), (95.0, False), (85.0, True)):
        waiting = [replace(other, remaining=remaining)]
        backlog = backlog_of("srpt", *waiting)
        backlog.begin(running)
        engine = replace(ENGINE, held=(running,), stepping=frozenset(["running"]))
        assert decide(engine, backlog, 100.0).advance == (("other",) if wins else ("running",))


def test_what_is_left_out_goes_to_an_engine_that_idles() -> None:
    large = make_work("large", tokens=4_000, remaining=400.0)
    nearly = make_work("nearly done", tokens=4_000, remaining=0.5, created_at=99.0)
    backlog = backlog_of("fair")
    for work in (large, nearly):
        backlog.begin(work)
    engine = replace(ENGINE, held=(large, nearly))
    assert decide(engine, backlog, 100.0).drop == ()
    decision = decide(engine, backlog, 100.0, [None])
    assert (decision.advance, decision.drop) == (("nearly done",), ("large",))
    backlog = backlog_of("fair")
    backlog.begin(large)
    assert decide(replace(ENGINE, held=(large,)), backlog, 100.0, [None]).drop == ()


def test_what_is_left_out_goes_to_the_engine_with_the_least_urgent_work() -> None:
    first, second = (make_work(i, tokens=4_000, remaining=100.0, deadline=at) for i, at in (("a", 300.0), ("b", 400.0)))
    backlog = backlog_of("fair")
    for work in (first, second):
        backlog.begin(work)
    engine = replace(ENGINE, held=(first, second))
    nearly, later, last = (
        make_work(i, tenant="t", deadline=at) for i, at in (("c", 409.0), ("d", 411.0), ("e", 800.0))
    )

    def dropped(*beside: Work | None, leaving: int = 0) -> tuple[str, ...]:
        decision = decide(engine, backlog, 100.0, beside, leaving)
        assert decision.advance == ("a",)
        return decision.drop

    assert dropped(nearly) == (), "it is not worth it"
    assert dropped(later) == dropped(nearly, last) == dropped(nearly, None) == ("b",)
    assert dropped(later, leaving=1) == (), "something else is on its way there"
    assert dropped(later, None, leaving=1) == ("b",)
    backlog.add(make_work("waits", tokens=4_000, remaining=100.0, deadline=350.0))
    assert dropped(last) == (), "what waits goes first"
    assert dropped(last, later) == ("b",)


def test_a_move_goes_by_priority_among_a_tenants_own() -> None:
    first, second, other = (
        make_work(i, tokens=4_000, remaining=100.0, deadline=at, priority=priority)
        for i, at, priority in (("a", 300.0, 5), ("b", 900.0, 5), ("c", 400.0, 0))
    )
    backlog = backlog_of("fair")
    for work in (first, second, other):
        backlog.begin(work)
    assert decide(replace(ENGINE, held=(first, second)), backlog, 100.0, [other]).drop == ("b",)
    assert decide(replace(ENGINE, held=(first, other)), backlog, 100.0, [second]).drop == ()


def with_adapters(name: str, at: float, *adapters: str, cohort: int = 0) -> Work:
    return make_work(name, tokens=10, created_at=at, adapters=adapters, cohort=cohort)


def test_segments_with_adapters_join_while_there_are_slots() -> None:
    held = [with_adapters("held", 0.0, "ink"), with_adapters("plain", 0.0)]
    waiting = [
        with_adapters("a", 1.0, "oil"),
        with_adapters("b", 2.0, "ink"),
        with_adapters("c", 3.0, "ink", "oil"),  # a pair has a slot of its own
        with_adapters("d", 4.0),
        with_adapters("e", 5.0, "oil"),
    ]

    def admitted(slots: int) -> tuple[str, ...]:
        return decision_of("fifo", held if slots else [], waiting, replace(ENGINE, adapter_slots=slots)).admit

    assert admitted(3) == ("a", "b", "c", "d", "e")
    # "c" waits, and so does whoever needs a slot behind it: "e" would keep that of oil longer.
    assert admitted(2) == ("a", "b", "d")
    assert admitted(1) == ("d",)
    assert admitted(0) == ("d",)


def test_the_most_urgent_segment_gets_the_slot_of_a_less_urgent_one() -> None:
    held = [with_adapters("x", 50.0, "ink"), with_adapters("y", 60.0, "oil")]
    decision = decision_of("fair", held, [with_adapters("first", 1.0, "pixels")], replace(ENGINE, adapter_slots=2))
    assert decision.admit == ("first",) and len(decision.drop) == 1
    assert {*decision.advance} == {"first", "x", "y"} - {*decision.drop}


def test_suspects_that_wait_for_a_slot_do_not_stop_the_others() -> None:
    held, engine = [with_adapters("x", 0.0, "ink")], replace(ENGINE, adapter_slots=1)
    suspect = with_adapters("suspect", 1.0, "oil", cohort=1)
    for policy in POLICIES:
        decision = decision_of(policy, held, [suspect, with_adapters("y", 2.0)], engine)
        assert (decision.admit, decision.advance, decision.trial) == ((), ("x",), False)
        decision = decision_of(policy, [], [suspect, with_adapters("y", 2.0)], engine)
        assert (decision.admit, decision.trial) == (("suspect",), True)


def test_what_becomes_late_all_at_once_is_noticed_little_by_little() -> None:
    """So that no decision takes long; and one that is made again is the same."""
    late = [make_work(f"l{n:04}", created_at=float(n), deadline=500.0) for n in range(3 * LATE_AT_ONCE)]
    backlog = backlog_of("fair", *late, make_work("feasible", deadline=600.0))
    assert next(backlog.in_order("nano", 400.0)).id == "l0000"
    rounds = []
    for now in (501.0, 501.0, 502.0, 503.0, 504.0):
        order = [work.id for work in backlog.in_order("nano", now)]
        assert {*order} == {"feasible", *(work.id for work in late)}
        rounds.append(order.index("feasible"))
    assert rounds == [2 * LATE_AT_ONCE, 2 * LATE_AT_ONCE, LATE_AT_ONCE, 0, 0]


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match=r"policy is 'lifo', must be one of edf, fair, fifo, round_robin, srpt"):
        policy_of("lifo")
