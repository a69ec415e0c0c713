"""The router has engines load the models that work waits for, and copes with loads that fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.serving.router.costs import costs_of_nano
from zoetrope.cluster.protocol.messages import HeldSegment, LoadFailed, Report, Running, StepPlan
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.serving.router.active import Active
from zoetrope.serving.router.loading import MAX_FAILURES, PAUSE_SECONDS, Loading
from zoetrope.serving.router.state import RouterState
from zoetrope.serving.router.swapping import TURN

LOAD_SECONDS = 2.0


def board_of(*models: str) -> RouterState:
    return RouterState(1_000, 10.0, costs_of_nano, loading=Loading(models or ("nano", "tiny")))


def segment(name: str, model: str) -> Active:
    return Active(SegmentSpec(name, (48, 5, 8, 14), 3, 3.0, 0), 280, f"conditions of {name}", model=model)


def report(model: str = "nano", epoch: int = 1, engine: str = "e", **fields: object) -> Report:
    return Report(engine, epoch, model, load_seconds=LOAD_SECONDS, **fields)  # type: ignore[arg-type]


def exchange(board: RouterState, told: Report, now: float) -> StepPlan:
    board.apply(told, now)
    return board.plan(told, now)


def test_an_idle_engine_loads_the_model_that_is_wanted() -> None:
    board = board_of()
    assert exchange(board, report(), 0.0).nothing
    board.add(segment("a", "tiny"))
    assert board.notice("tiny", 0.0) == "its model is not loaded yet: the engines work with others"
    assert exchange(board, report(), 1.0) == StepPlan(load="tiny")
    board.apply(report("tiny", 1, state="loading"), 2.0)
    assert board.notice("tiny", 3.0) == "its model is being loaded, about 1 s more"
    assert board.plan(report("tiny", 1, state="loading"), 2.0).nothing
    plan = exchange(board, report("tiny", 2), 5.0)
    assert [admit.spec.id for admit in plan.admit] == ["a"] and not plan.load
    assert board.notice("tiny", 5.0) == ""


def test_work_is_given_only_to_engines_that_have_its_model() -> None:
    board = board_of()
    board.add(segment("a", "nano"))
    board.add(segment("b", "tiny"))
    exchange(board, report("tiny", engine="other"), 0.0)
    assert board.active["b"].engine == "other" and board.active["a"].engine is None
    assert exchange(board, report("nano"), 0.0).advance == ("a",)


def test_what_an_engine_held_waits_while_it_has_another_model_and_resumes() -> None:
    board = board_of()
    board.add(segment("a", "nano"))
    board.add(segment("b", "tiny"))
    held = (HeldSegment("a", 1),)
    assert exchange(board, report(), 0.0).advance == ("a",)
    later = 1_000.0  # its turn is over
    ahead = report(held=held, running=Running((), 280))
    assert exchange(board, ahead, later).nothing, "the next step depends on nothing that runs"
    assert exchange(board, report(held=held), later).load == "tiny"
    board.apply(report("tiny", state="loading"), later + 1)
    assert (board.active["a"].engine, board.active["a"].furthest) == (None, 1)
    assert exchange(board, report("tiny", 2), later + 3).advance == ("b",)
    board.remove("b")
    assert exchange(board, report("tiny", 2), later + 4).load == "nano"
    board.apply(report("nano", 2, state="loading"), later + 5)
    assert exchange(board, report("nano", 3), later + 6).advance == ("a",)
    assert board.active["a"].redone == 0


def test_an_answer_that_was_lost_is_given_again() -> None:
    board = board_of()
    board.add(segment("a", "tiny"))
    assert exchange(board, report(), 0.0).load == "tiny"
    assert exchange(board, report(), 0.5).load == "tiny"


def test_an_engine_that_dies_while_it_loads_is_given_up() -> None:
    board = board_of()
    board.add(segment("a", "tiny"))
    exchange(board, report(), 0.0)
    board.apply(report("tiny", state="loading"), 1.0)
    assert board.lose_silent_engines(12.0) == ["e"]
    assert exchange(board, report(engine="its successor"), 13.0).load == "tiny"


def test_a_new_router_learns_of_a_load_in_progress() -> None:
    board = board_of()
    board.add(segment("a", "tiny"))
    board.apply(report("tiny", state="loading"), 0.0)
    assert exchange(board, report("tiny", 2), 3.0).advance == ("a",)


def test_a_model_that_cannot_be_loaded_fails_its_jobs_and_no_others() -> None:
    board, now = board_of(), 0.0
    board.add(segment("a", "nano"))
    board.add(segment("b", "tiny"))
    board.active["a"].engine = None
    failure = LoadFailed("tiny", "a file is broken")
    exchange(board, report(), now)
    board.remove("a")
    for number in range(1, MAX_FAILURES + 1):
        assert exchange(board, report(), now).load == "tiny"
        board.apply(report("tiny", state="loading"), now)
        news = board.apply(report(epoch=1 + number, load_failed=failure), now + 1)
        if number < MAX_FAILURES:
            assert news.failed == () and "a file is broken" in board.notice("tiny", now)
            assert board.plan(report(epoch=1 + number), now + 1).nothing, "not again at once"
            now += 1 + PAUSE_SECONDS * 2 ** (number - 1)
    (failed,) = news.failed
    assert failed.id == "b" and failed.code == "UNAVAILABLE"
    assert failed.reason == f"its model tiny could not be loaded, {MAX_FAILURES} times in a row: a file is broken"
    board.add(segment("c", "nano"))
    assert exchange(board, report(epoch=9), now + 2).advance == ("c",)


@pytest.mark.parametrize("seconds", [None, 8.0])
def test_a_load_is_priced_as_it_was_seen(seconds: float | None) -> None:
    loading = Loading(("nano", "tiny"))
    loading.saw("nano", 4.0)
    if seconds is not None:
        loading.saw("tiny", seconds)
    assert loading.price("tiny") == (seconds or 4.0)
    loading.saw("nano", 5.0)
    assert 4.0 < loading.price("nano") < 5.0


def test_when_an_engine_has_a_model_is_foreseen() -> None:
    board = board_of()
    assert board.seconds_to_model("tiny", 0.0) is None
    exchange(board, report(), 0.0)
    assert (board.seconds_to_model("nano", 0.0), board.seconds_to_model("tiny", 0.0)) == (0.0, LOAD_SECONDS)
    board.add(segment("a", "nano"))
    exchange(board, report(), 1.0)
    turn = TURN * 2 * LOAD_SECONDS
    assert board.seconds_to_model("tiny", 2.0) == turn - 2.0 + LOAD_SECONDS, "the engine's turn is not over"
    board.apply(report("tiny", state="loading"), 100.0)
    assert board.seconds_to_model("tiny", 101.5) == LOAD_SECONDS - 1.5
    assert replace(board, loading=None).seconds_to_model("tiny", 0.0) is None


def test_gangs_that_are_too_small_for_a_model_never_load_it() -> None:
    loading = Loading(("nano", "tiny"), {1: frozenset({"nano"})})
    assert loading.can(1, 0.0) == {"nano"} and loading.can(4, 0.0) == {"nano", "tiny"}


def test_one_model_is_never_swapped() -> None:
    board = replace(board_of(), loading=None)
    board.add(segment("a", "other"))
    assert exchange(board, report(), 0.0).nothing
