"""A new router has segments start only after engines have handed over what they hold for the one before."""

from __future__ import annotations

from tests.serving.router.test_state import board_with, exchange, report
from zoetrope.cluster.protocol.messages import HeldSegment
from zoetrope.serving.router.handovers import HEAR_SECONDS


def test_nothing_starts_before_every_engine_has_reported() -> None:
    board = board_with("job/2")
    board.handovers.expect({"e": 0.5, "f": 0.5})
    assert exchange(board, report(), 10.1).nothing
    assert exchange(board, report("f"), 10.2).admit, "all have reported now"


def test_an_engine_that_is_gone_is_waited_for_no_longer_than_a_moment_and_its_step() -> None:
    board = board_with("job/2")
    board.handovers.expect({"e": 0.5, "dead": 7.0})
    assert exchange(board, report(), 500.0).nothing, "time runs from the first that could start"
    assert exchange(board, report(), 500.0 + HEAR_SECONDS + 6.9).nothing
    assert exchange(board, report(), 500.0 + HEAR_SECONDS + 7.0).admit


def test_a_job_starts_where_another_engine_has_left_it() -> None:
    board = board_with("job/2", "other/1")
    plan = exchange(board, report("f", held=(HeldSegment("job/1", 7),)), 1.0)
    assert plan.release == ("job/1",), "with a snapshot"
    assert [admit.spec.id for admit in plan.admit] == ["other/1"]
    assert exchange(board, report(), 1.1).nothing, "job/1 is on its way"
    plans = [exchange(board, report("f", held=(HeldSegment("other/1", 1),)), 1.2), exchange(board, report(), 1.2)]
    assert [admit.spec.id for plan in plans for admit in plan.admit] == ["job/2"], "it is handed over"


def test_a_lost_engine_holds_nothing_back() -> None:
    board = board_with("job/2")
    exchange(board, report("f", held=(HeldSegment("job/1", 7),)), 1.0)
    assert exchange(board, report(), 2.0).nothing
    board.lose_silent_engines(60.0)
    assert exchange(board, report(), 61.0).admit
    exchange(board, report("g", held=(HeldSegment("third/1", 7),)), 61.0)
    board.apply(report("g", state="draining"), 62.0)
    assert not board.handovers.hold_back("third/2", 62.0)
