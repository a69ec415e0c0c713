"""The scheduling policy, without anything around it."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.serving.jobs.harness import LIMITS, Clock, claim, ids, new_job
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.router.scheduler import Candidate, decide, order_of

candidates = st.lists(
    st.builds(
        lambda n, created, tokens: Candidate(f"s{n}", (created, f"s{n}"), tokens),
        st.integers(0, 10_000),
        st.floats(0, 100),
        st.integers(1, 500),
    ),
    unique_by=lambda c: c.id,
    max_size=12,
)


@given(candidates, candidates, st.integers(1, 1_000))
def test_a_batch_keeps_what_is_held_and_stays_within_the_budget(
    held: list[Candidate], waiting: list[Candidate], budget: int
) -> None:
    waiting = [c for c in waiting if c.id not in {h.id for h in held}]
    decision = decide(held, waiting, budget)
    assert decision.advance == (*(h.id for h in held), *decision.admit)
    tokens = {c.id: c.tokens for c in (*held, *waiting)}
    total = sum(tokens[i] for i in decision.advance)
    assert total <= budget or len(decision.advance) == 1 or not decision.admit
    assert len(set(decision.advance)) == len(decision.advance)


@given(candidates, st.integers(1, 1_000))
def test_nobody_is_overtaken(waiting: list[Candidate], budget: int) -> None:
    decision = decide([], waiting, budget)
    ordered = [c.id for c in sorted(waiting, key=lambda c: c.order)]
    assert list(decision.admit) == ordered[: len(decision.admit)]
    assert not waiting or decision.admit  # an idle engine always gets something


def test_a_large_segment_waits_for_room_and_holds_the_others_back() -> None:
    large, small = Candidate("large", (1.0, "a"), 900), Candidate("small", (2.0, "b"), 10)
    assert decide([Candidate("held", (0.0, "h"), 200)], [small, large], 1_000).admit == ()
    assert decide([Candidate("held", (0.0, "h"), 50)], [small, large], 1_000).admit == ("large", "small")


def test_what_was_claimed_first_goes_first_whoever_asks_for_priority(tmp_path: Path) -> None:
    clock = Clock()
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db", clock)
    claimed = []
    for number, (owner, priority) in enumerate((("a", 0), ("b", 0), ("a", 9), ("b", 5))):
        stores.jobs.create(new_job(f"{number}", owner=owner, priority=priority), LIMITS)
        clock.now += 1
        if number != 2:  # the last two are claimed together
            claimed += claim(stores.jobs, 2)
    stores.close()
    assert ids(sorted(claimed, key=order_of)) == ["0", "1", "2", "3"]


def with_adapters(name: str, at: float, *adapters: str, cohort: int = 0) -> Candidate:
    return Candidate(name, (at, name), 10, cohort, adapters)


def test_segments_with_adapters_join_while_there_are_slots() -> None:
    held = [with_adapters("held", 0.0, "ink"), with_adapters("plain", 0.0)]
    waiting = [
        with_adapters("a", 1.0, "oil"),
        with_adapters("b", 2.0, "ink"),
        with_adapters("c", 3.0, "ink", "oil"),  # a pair has a slot of its own
        with_adapters("d", 4.0),
        with_adapters("e", 5.0, "oil"),
    ]
    assert decide(held, waiting, 1_000, 3).admit == ("a", "b", "c", "d", "e")
    # "c" waits, and so does whoever needs a slot behind it: "e" would keep that of oil longer.
    assert decide(held, waiting, 1_000, 2).admit == ("a", "b", "d")
    assert decide(held, waiting, 1_000, 1).admit == ("d",)
    assert decide([], waiting, 1_000, 0).admit == ("d",)


def test_the_segment_that_waits_for_a_slot_gets_the_next_one() -> None:
    """However many others come whose adapters are there."""
    held = [with_adapters("x", 0.0, "ink"), with_adapters("y", 0.0, "oil")]
    first = with_adapters("first", 1.0, "pixels")
    late = [with_adapters(f"late {i}", 2.0 + i, "ink") for i in range(3)]
    assert decide(held, [first, *late], 1_000, 2).admit == ()
    assert decide(held[:1], [first, *late], 1_000, 2).admit == ("first", "late 0", "late 1", "late 2")


def test_suspects_that_wait_for_a_slot_do_not_stop_the_others() -> None:
    held = [with_adapters("x", 0.0, "ink")]
    suspect = with_adapters("suspect", 1.0, "oil", cohort=1)
    decision = decide(held, [suspect, with_adapters("y", 2.0)], 1_000, 1)
    assert (decision.admit, decision.advance, decision.trial) == ((), ("x",), False)
    decision = decide([], [suspect, with_adapters("y", 2.0)], 1_000, 1)
    assert (decision.admit, decision.trial) == (("suspect",), True)
