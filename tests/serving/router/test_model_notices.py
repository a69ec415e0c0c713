"""Jobs are told that no engine has their model yet, once for each piece of news."""

from __future__ import annotations

from typing import Any, cast

from tests.serving.router.costs import costs_of_nano
from zoetrope.cluster.protocol.messages import Report
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.router.active import Active
from zoetrope.serving.router.loading import Loading
from zoetrope.serving.router.model_notices import SECONDS, ModelNotices
from zoetrope.serving.router.state import RouterState


def segment(name: str, model: str) -> Active:
    return Active(SegmentSpec(name, (48, 5, 8, 14), 3, 3.0, 0), 280, None, model=model)


def report(model: str, epoch: int, **fields: Any) -> Report:
    return Report("e", epoch, model, load_seconds=2.0, **fields)


def test_only_news_is_told() -> None:
    board = RouterState(1_000, 10.0, costs_of_nano, loading=Loading(("nano", "tiny")))
    told: list[tuple[str, str]] = []
    notices = ModelNotices(board, lambda job_id: cast(Job, job_id), lambda job, notice: told.append((str(job), notice)))
    board.apply(report("nano", 1), 0.0)
    board.add(segment("a/1/0", "nano"))
    board.add(segment("b/1/0", "tiny"))
    for now in (0.0, SECONDS / 2, SECONDS):
        notices.look(now)
    assert told == [("b", "its model is not loaded yet: the engines work with others")]
    board.apply(report("tiny", 1, state="loading"), 2.0)
    notices.look(2.0)
    assert dict(told[1:]) == {
        "a": "its model is not loaded yet: the engines work with others",
        "b": "its model is being loaded, about 2 s more",
    }
    board.apply(report("tiny", 2), 4.0)
    notices.look(4.0)
    assert told[3:] == [("b", "")], "it can go on"


def test_one_model_needs_none() -> None:
    board = RouterState(1_000, 10.0, costs_of_nano)
    board.add(segment("a/1/0", "nano"))
    told: list[str] = []
    ModelNotices(board, lambda job_id: cast(Job, job_id), lambda job, notice: told.append(notice)).look(0.0)
    assert told == []
