"""What the router makes of its engines' reports."""

from __future__ import annotations

from cluster.messages import Failed, Finished, Held, Plan, Report
from model.tasks import SegmentSpec
from serving.router.board import Active, Board


def board_with(*ids: str, step_tokens: int = 1_000) -> Board:
    board = Board(step_tokens, engine_timeout=10.0)
    for number, segment_id in enumerate(ids):
        spec = SegmentSpec(segment_id, (48, 5, 8, 14), 3, 3.0, 0)
        board.add(Active(spec, (float(number), segment_id), 280, f"conditions of {segment_id}"))
    return board


def exchange(board: Board, report: Report, now: float = 0.0) -> Plan:
    board.take(report, now)
    return board.plan(report)


def report(engine: str = "e", epoch: int = 1, **fields: object) -> Report:
    return Report(engine, epoch, "nano", **fields)  # type: ignore[arg-type]


def test_a_segment_goes_through_its_steps() -> None:
    board = board_with("a", "b")
    plan = exchange(board, report())
    assert [x.spec.id for x in plan.admit] == ["a", "b"]
    assert plan.admit[0].conditions == "conditions of a"
    news = board.take(report(held=(Held("a", 1), Held("b", 1)), step_seconds=0.5, step_tokens=560), 1.0)
    assert news.progressed == ("a", "b")
    assert board.eta_seconds("a") == 2 * 560 * (0.5 / 560)
    news = board.take(report(finished=(Finished("a", "latents"),), failed=(Failed("b", "why"),)), 2.0)
    assert news.finished == (("a", "latents"),)
    assert news.failed == (("b", "why"),)
    assert board.active == {}


def test_a_rebuilt_gang_starts_its_segments_again() -> None:
    board = board_with("a")
    exchange(board, report())
    board.take(report(held=(Held("a", 2),)), 1.0)
    plan = exchange(board, report(epoch=2), 2.0)
    assert [x.spec.id for x in plan.admit] == ["a"]
    assert board.active["a"].step == 0


def test_a_silent_engine_loses_its_segments_to_another() -> None:
    board = board_with("a")
    exchange(board, report("one"))
    assert board.lose_silent_engines(9.0) == []
    assert board.lose_silent_engines(11.0) == ["one"]
    assert [x.spec.id for x in exchange(board, report("two"), 12.0).admit] == ["a"]
    late = exchange(board, report("one", held=(Held("a", 2),)), 13.0)
    assert late.drop == ("a",)
    assert late.advance == ()
    assert board.active["a"].engine == "two"


def test_a_long_step_is_waited_for() -> None:
    board = board_with("a")
    exchange(board, report())
    exchange(board, report(held=(Held("a", 1),), step_seconds=20.0, step_tokens=280), 20.0)
    assert board.lose_silent_engines(20.0 + 10.0 + 90.0) == []
    assert board.lose_silent_engines(20.0 + 10.0 + 101.0) == ["e"]


def test_a_removed_segment_is_dropped_and_reported_no_more() -> None:
    board = board_with("a")
    exchange(board, report())
    board.remove("a")
    held = report(held=(Held("a", 1),))
    assert board.take(held, 1.0).progressed == ()
    assert board.plan(held) == Plan(drop=("a",))
    assert board.take(report(finished=(Finished("a", "late"),)), 2.0).finished == ()


def test_an_unknown_segment_is_dropped() -> None:
    assert exchange(board_with(), report(held=(Held("x", 4),))).drop == ("x",)
