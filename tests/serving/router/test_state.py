"""What the router makes of its engines' reports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.serving.router.costs import costs_of_nano
from zoetrope.cluster.protocol.messages import Broken, Failed, Finished, HeldSegment, Report, Running, StepPlan
from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.serving.router.active import Active
from zoetrope.serving.router.engine_rows import jobs_on
from zoetrope.serving.router.state import RouterState


def board_with(*ids: str, step_tokens: int = 1_000) -> RouterState:
    board = RouterState(step_tokens, 10.0, costs_of_nano)
    for number, segment_id in enumerate(ids):
        spec = SegmentSpec(segment_id, (48, 5, 8, 14), 3, 3.0, 0)
        board.add(segment(spec, number))
    return board


def segment(spec: SegmentSpec, created_at: float = 0.0, tokens: int = 280) -> Active:
    return Active(spec, tokens, f"conditions of {spec.id}", model="nano", created_at=float(created_at))


def exchange(board: RouterState, report: Report, now: float = 0.0) -> StepPlan:
    board.apply(report, now)
    return board.plan(report, now)


def report(engine: str = "e", epoch: int = 1, **fields: object) -> Report:
    return Report(engine, epoch, "nano", **fields)  # type: ignore[arg-type]


def test_a_segment_goes_through_its_steps() -> None:
    board = board_with("a", "b")
    plan = exchange(board, report())
    assert [x.spec.id for x in plan.admit] == ["a", "b"]
    assert plan.admit[0].conditions == "conditions of a"
    news = board.apply(report(held=(HeldSegment("a", 1), HeldSegment("b", 1)), step_seconds=0.5, step_tokens=560), 1.0)
    assert news.progressed == ("a", "b")
    assert board.eta_seconds("a") == 2 * 560 * (0.5 / 560)
    news = board.apply(report(finished=(Finished("a", "latents"),), failed=(Failed("b", "why"),)), 2.0)
    assert news.finished == (("a", "latents"),)
    assert news.failed == (Failed("b", "why"),)
    assert board.active == {}


def saving(step_tokens: int = 1_000, **fields: object) -> RouterState:
    """With one segment, of 280 tokens in a step with guidance."""
    board = RouterState(step_tokens, 10.0, costs_of_nano, preview_steps=4)
    spec = SegmentSpec("a", (48, 5, 8, 14), 10, 3.0, 0, **fields)  # type: ignore[arg-type]
    board.add(segment(spec))
    return board


def test_steps_that_reuse_a_velocity_pass_with_the_one_before() -> None:
    board = saving(step_mask="##..#...##")
    assert exchange(board, report()).preview == ()
    board.apply(report(held=(HeldSegment("a", 1),), step_seconds=0.5, step_tokens=280), 1.0)
    assert board.eta_seconds("a") == 4 * 0.5, "four more steps are computed, of nine"
    plan = exchange(board, report(held=(HeldSegment("a", 1),)))
    assert plan.preview == ("a",), "after step 4, which the plan reaches"
    ahead = exchange(board, report(held=(HeldSegment("a", 1),), running=Running((), 280)))
    assert ahead.advance == ("a",) and ahead.preview == ("a",), "the plan after it goes from 4 to 8"
    board.apply(report(epoch=2), 2.0)
    exchange(board, report(epoch=2), 2.0)
    board.apply(report(epoch=2, held=(HeldSegment("a", 4),)), 3.0)
    assert board.active["a"].redone == 0, "the snapshot was of step 1, as far as it had come"
    board.apply(report(epoch=3), 4.0)
    exchange(board, report(epoch=3), 4.0)
    board.apply(report(epoch=3, held=(HeldSegment("a", 4),)), 5.0)
    assert board.active["a"].redone == 3, "steps 2 to 4 again"
    ending = exchange(board, report(epoch=3, held=(HeldSegment("a", 9),), running=Running((), 280)), 6.0)
    assert ending.advance == ()


def test_a_step_without_guidance_has_half_of_the_tokens() -> None:
    board = saving(guidance_start=0.2, guidance_end=0.5)
    plans = [exchange(board, report())]
    plans += [exchange(board, report(held=(HeldSegment("a", step),)), 1.0) for step in (1, 2, 4, 5, 9)]
    assert [plan.tokens for plan in plans] == [140, 140, 280, 280, 140, 140]
    ahead = exchange(board, report(held=(HeldSegment("a", 4),), running=Running((), 280)))
    assert ahead.tokens == 140, "the step after the running one"
    board.apply(report(held=(HeldSegment("a", 4),), step_seconds=0.28, step_tokens=280), 1.0)
    board.active["a"].furthest = 4
    assert board.eta_seconds("a") == pytest.approx((280 + 5 * 140) * 0.001)


def test_room_is_kept_for_the_guidance_to_come() -> None:
    """A batch that grows by itself would not fit into memory; one that shrinks lets others in."""
    board = saving(500, guidance_start=0.5)
    board.add(segment(replace(board.active["a"].spec, id="b"), 1.0))
    assert exchange(board, report()).advance == ("a",)
    board = saving(500, guidance_end=0.5)
    board.add(segment(replace(board.active["a"].spec, id="b"), 1.0))
    assert exchange(board, report()).advance == ("a",)
    assert exchange(board, report(held=(HeldSegment("a", 5),))).advance == ("a", "b")


def test_a_rebuilt_gang_takes_up_its_segments_again() -> None:
    board = board_with("a")
    exchange(board, report())
    for step in (1, 2, 3, 4):
        exchange(board, report(held=(HeldSegment("a", step),)), 1.0)
    plan = exchange(board, report(epoch=2), 2.0)
    assert [x.spec.id for x in plan.admit] == ["a"]
    news = board.apply(report(epoch=2, held=(HeldSegment("a", 3),)), 3.0)  # its snapshot was at step 2
    assert (news.progressed, board.active["a"].redone) == ((), 1), "what clients see never goes back"
    assert board.apply(report(epoch=2, held=(HeldSegment("a", 4),)), 3.0).progressed == ()
    assert board.apply(report(epoch=2, held=(HeldSegment("a", 5),)), 3.0).progressed == ("a",)
    assert board.active["a"].redone == 2


def break_down(board: RouterState, *segments: str, raised: bool, engine: str = "e") -> tuple[tuple[str, str], ...]:
    broken = Broken(segments, "no memory", raised)
    news = board.apply(report(engine, state="rebuilding", broken=broken), 1.0)
    assert board.plan(report(engine, state="rebuilding"), 1.0) == StepPlan()
    return tuple((failure.id, failure.reason) for failure in news.failed)


def test_halving_finds_the_segment_at_fault() -> None:
    board = board_with("a", "b", "c", "d", "e", step_tokens=10_000)
    tried: list[tuple[str, ...]] = []
    failed: tuple[tuple[str, str], ...] = ()
    while not failed:
        plan = exchange(board, report())
        tried.append(plan.advance)
        assert plan.checkpoint == (len(tried) > 1), "what else is held is safe before a trial"
        if "d" in plan.advance:
            failed = break_down(board, *plan.advance, raised=True)
        else:
            board.apply(report(held=tuple(HeldSegment(i, 1) for i in plan.advance)), 1.0)
            board.apply(report(), 1.0)
        assert len(tried) < 10
    assert failed == (("d", "no memory"),)
    assert tried[0] == ("a", "b", "c", "d", "e")
    assert ("d",) in tried
    assert set(exchange(board, report()).advance) <= {"a", "b", "c", "e"}


def test_suspects_are_together_again_once_they_are_past_the_step() -> None:
    board = board_with("a", "b")
    exchange(board, report())
    break_down(board, "a", "b", raised=True)
    assert exchange(board, report(), 2.0).advance == ("a",)
    plan = exchange(board, report(held=(HeldSegment("a", 1),)), 3.0)
    assert plan.advance == ("b",), "the other suspect has its turn while the cleared one waits"
    assert exchange(board, report(held=(HeldSegment("a", 1), HeldSegment("b", 1))), 4.0).advance == ("a", "b")


def test_a_lost_process_is_nobodys_fault_at_first() -> None:
    board = board_with("a")
    for _ in range(2):
        assert exchange(board, report()).advance == ("a",)
        assert break_down(board, "a", raised=False) == ()
    assert exchange(board, report()).advance == ("a",)
    assert break_down(board, "a", raised=False) == (("a", "no memory, 3 times"),)


def test_engines_that_stop_give_their_segments_back() -> None:
    for state in ("rebuilding", "draining", "out"):
        board = board_with("a")
        exchange(board, report("one"))
        exchange(board, report("one", state=state))
        assert ("one" in board.engines) == (state == "rebuilding")
        assert exchange(board, report("two")).advance == ("a",)


def test_a_segment_moves_to_the_engine_of_the_other_noise_expert() -> None:
    board = board_with("a")
    assert exchange(board, report("low", role="low")).advance == ()
    assert exchange(board, report("high", role="high")).advance == ("a",)
    exchange(board, report("high", role="high", handed_over=("a",)))
    assert exchange(board, report("high", role="high")).advance == ()
    assert exchange(board, report("low", role="low")).advance == ("a",)


def ahead(held: dict[str, int], admitted: tuple[str, ...] = (), tokens: int = 560) -> Report:
    """Asks for the plan after the one under way; what is held is of before that."""
    return report(held=tuple(HeldSegment(i, step) for i, step in held.items()), running=Running(admitted, tokens))


def test_the_plan_after_the_one_under_way_goes_without_what_that_one_ends() -> None:
    board = board_with("a", "b", "c", step_tokens=560)
    assert exchange(board, report()).advance == ("a", "b")
    plan = exchange(board, ahead({}, ("a", "b")), 1.0)
    assert (plan.advance, plan.admit) == (("a", "b"), ()), "they are on the engine, though it has not said so yet"
    board.apply(
        report(held=(HeldSegment("a", 2), HeldSegment("b", 1)), running=Running((), 560)), 2.0
    )  # of three steps each
    plan = exchange(board, ahead({"a": 2, "b": 1}), 2.5)
    assert plan.advance == ("b", "c"), "a ends with the step under way, and makes room"
    assert [x.spec.id for x in plan.admit] == ["c"]
    news = board.apply(
        report(held=(HeldSegment("b", 2),), finished=(Finished("a", "it"),), running=Running(("c",), 560)), 3.0
    )
    assert news.finished == (("a", "it"),)
    board.remove("b")
    assert exchange(board, ahead({"b": 2}, ("c",)), 3.5).drop == ("b",)
    assert exchange(board, report(held=(HeldSegment("c", 1),)), 4.0).advance == ("c",)


def test_segments_of_a_plan_that_never_came_wait_again() -> None:
    board = board_with("a", "b", step_tokens=300)
    exchange(board, report())
    board.remove("a")
    assert [x.spec.id for x in exchange(board, ahead({}, ("a",)), 1.0).admit] == ["b"]  # the engine does not get it
    assert [x.spec.id for x in exchange(board, report(), 2.0).admit] == ["b"]


def test_nothing_is_planned_ahead_that_depends_on_whether_a_step_breaks() -> None:
    board = board_with("a", "b")
    exchange(board, report())
    break_down(board, "a", "b", raised=True)
    assert exchange(board, report(), 2.0).advance == ("a",)
    assert exchange(board, ahead({}, ("a",)), 2.5) == StepPlan()
    assert exchange(board, report(held=(HeldSegment("a", 1),)), 3.0).advance == ("b",)


def test_an_engine_is_given_the_time_of_the_step_under_way() -> None:
    board = board_with("a")
    exchange(board, report())
    exchange(board, report(held=(HeldSegment("a", 1),), step_seconds=20.0, step_tokens=280), 20.0)
    exchange(board, ahead({"a": 1}, tokens=280), 40.0)  # begins its last step now
    board.apply(report(held=(HeldSegment("a", 2),), running=Running((), 280)), 41.0)
    assert board.lose_silent_engines(141.0) == []  # 41 s, 10 s of silence, five times 20 s
    assert board.lose_silent_engines(152.0) == ["e"]


def test_previews_count_the_step_under_way() -> None:
    board = board_with("a")
    board.preview_steps = 2
    assert exchange(board, report()).preview == ()
    assert exchange(board, ahead({}, ("a",)), 1.0).preview == ("a",), "the plan after the first step makes the second"
    assert exchange(board, report(held=(HeldSegment("a", 1),)), 2.0).preview == ("a",)


def test_a_silent_engine_loses_its_segments_to_another() -> None:
    board = board_with("a")
    exchange(board, report("one"))
    assert board.lose_silent_engines(9.0) == []
    assert board.lose_silent_engines(11.0) == ["one"]
    assert [x.spec.id for x in exchange(board, report("two"), 12.0).admit] == ["a"]
    late = exchange(board, report("one", held=(HeldSegment("a", 2),)), 13.0)
    assert late.drop == ("a",)
    assert late.advance == ()
    assert board.active["a"].engine == "two"


def test_a_long_step_is_waited_for() -> None:
    board = board_with("a")
    exchange(board, report())
    exchange(board, report(held=(HeldSegment("a", 1),), step_seconds=20.0, step_tokens=280), 20.0)
    assert board.lose_silent_engines(20.0 + 10.0 + 90.0) == []
    assert board.lose_silent_engines(20.0 + 10.0 + 101.0) == ["e"]


def test_a_removed_segment_is_dropped_and_reported_no_more() -> None:
    board = board_with("a")
    exchange(board, report())
    board.remove("a")
    held = report(held=(HeldSegment("a", 1),))
    assert board.apply(held, 1.0).progressed == ()
    assert board.plan(held, 1.0) == StepPlan(drop=("a",))
    assert board.apply(report(finished=(Finished("a", "late"),)), 2.0).finished == ()


def test_a_segment_of_another_router_is_given_up_with_a_snapshot() -> None:
    """That one has stopped; whoever claims the job next goes on from there."""
    plan = exchange(board_with("a"), report(held=(HeldSegment("x", 4),)))
    assert (plan.drop, plan.release) == ((), ("x",))
    assert [x.spec.id for x in plan.admit] == ["a"]


def test_a_removed_segment_is_dropped_without_one_only_while_an_engine_may_hold_it() -> None:
    board = board_with("a", "b")
    exchange(board, report())
    board.apply(report(finished=(Finished("a", "latents"),), held=(HeldSegment("b", 1),)), 1.0)
    board.remove("a")
    board.remove("b")
    held = report(held=(HeldSegment("b", 1),))
    assert exchange(board, held, 2.0) == StepPlan(drop=("b",))
    assert exchange(board, held, 3.0) == StepPlan(release=("b",)), "it was told before: this one came from elsewhere"


@pytest.mark.parametrize("end", ["silent", "draining", "finished"])
def test_removed_segments_are_forgotten_when_no_engine_can_hold_them(end: str) -> None:
    board = board_with("a")
    exchange(board, report())
    board.remove("a")
    assert board.handovers.removed("a")
    if end == "silent":
        assert board.lose_silent_engines(100.0) == ["e"]
    else:
        fields = {"finished": (Finished("a", "late"),)} if end == "finished" else {"state": "draining"}
        board.apply(report(**fields), 1.0)
    assert not board.handovers.removed("a")


def test_conditions_that_are_gone_end_the_segment_without_its_fault() -> None:
    board = board_with("a", "b")
    exchange(board, report())
    failed = (Failed("a", "the owner died", lost=True), Failed("b", "too large"))
    news = board.apply(report(failed=failed), 1.0)
    assert (news.lost, news.failed) == (("a",), (Failed("b", "too large"),))
    assert board.active == {}


def test_jobs_of_an_engine() -> None:
    """Those of the segments that it holds and of those that it starts, each once."""
    held = (HeldSegment("vid_b/1/0", 2), HeldSegment("vid_a/3/1", 5))
    assert jobs_on(report(held=held, running=Running(("vid_c/1/0", "vid_b/1/1"), 100))) == ("vid_a", "vid_b", "vid_c")
    assert jobs_on(report()) == ()


def test_adapters_of_waiting_segments_are_read_ahead() -> None:
    """In the order in which they will be needed, each once, as many as there are slots."""
    ink, oil, pixels = (AdapterUse(name, f"adapters/{name}", name, 8) for name in ("ink", "oil", "pixels"))
    board = RouterState(1_000, 10.0, costs_of_nano, adapter_slots=2)
    for number, loras in enumerate(((ink,), (), (oil, ink), (pixels,), (oil, ink), (ink,))):
        spec = SegmentSpec(str(number), (48, 5, 8, 14), 3, 3.0, 0, loras=loras)
        board.add(segment(spec, number, 400))
    plan = exchange(board, report())
    assert [x.spec.id for x in plan.admit] == ["0", "1"]
    assert plan.prefetch == (oil, ink, pixels)
