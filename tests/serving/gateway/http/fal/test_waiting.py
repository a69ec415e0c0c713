"""Answers that wait, of jobs that take long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.serving.jobs.harness import new_job
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.http.common.calls import HttpCall
from zoetrope.serving.gateway.http.fal import waiting
from zoetrope.serving.gateway.http.fal.waiting import EventStream, ResultResponse
from zoetrope.serving.gateway.watch.outlook import Outlook
from zoetrope.serving.gateway.watch.watcher import Sighting
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import Job, State

SPEC = {
    "task": {"kind": "text_to_video", "prompt": "a red circle", "negative_prompt": ""},
    **{"container": "mp4", "frames": 5, "fps": 8, "width": 64, "height": 48, "steps": 2, "guidance": 1.0, "seed": 1},
}


def job_in(state: State) -> Job:
    fields = {**vars(new_job("vid_a", spec=SPEC, origin={"api": "fal", "app": "wan/v2.6/text-to-video"}))}
    del fields["request_id"], fields["fingerprint"]
    return Job(**fields, state=state, created_at=1.0)


QUEUED = job_in(State.QUEUED)


class Followed:
    """A core whose jobs are seen as it is told: one list of sightings each time that somebody follows."""

    def __init__(self, *looks: list[Job | None] | Exception) -> None:
        self._looks = list(looks)
        self.liveness = SimpleNamespace(stopping=False)

    async def follow(self, job: Job, who: Principal, end: float) -> AsyncIterator[Sighting]:
        look = self._looks.pop(0)
        self.liveness.stopping = not self._looks
        if isinstance(look, Exception):
            raise look
        for seen in look:
            yield Sighting(seen, Outlook(0, None))


def call_of(core: Followed) -> HttpCall:
    return HttpCall(cast(Any, core), cast(Any, None), Principal())


def answer_of(response: Response) -> Any:
    async def endpoint(request: Any) -> Response:
        return response

    return TestClient(Starlette(routes=[Route("/", endpoint)])).get("/")


def stream_of(*looks: list[Job | None] | Exception) -> list[str]:
    stream = EventStream(call_of(Followed(*looks)), QUEUED, "http://here", logs=True, headers={})
    return [line for line in answer_of(stream).text.splitlines() if line]


def test_a_silent_stream_says_that_it_is_there() -> None:
    """Until the gateway stops; what has not changed is not said again."""
    lines = stream_of([QUEUED], [QUEUED], [])
    assert [line[:9] for line in lines] == ['data: {"s', ": waiting", ": waiting", ": waiting"]


def test_a_stream_ends_with_its_job() -> None:
    assert len(stream_of([QUEUED, None])) == 1
    lines = stream_of([QUEUED, job_in(State.CANCELLED)])
    assert len(lines) == 2
    assert '"COMPLETED"' in lines[-1]
    assert "/wan/v2.6/requests/vid_a/status" in lines[-1]


def test_a_stream_ends_when_the_database_does_not_answer() -> None:
    assert len(stream_of([QUEUED], StoreError("gone"))) == 2


def result_of(*looks: list[Job | None] | Exception, stopping: bool = False) -> Any:
    async def never(call: HttpCall, job: Job) -> Response:
        raise AssertionError

    core = Followed(*looks, [])
    return answer_of(ResultResponse(call_of(core), QUEUED, never, "http://here"))


@pytest.mark.parametrize("look", [[QUEUED], [None], StoreError("gone"), ValueError("secret")])
def test_no_client_submits_again_what_has_no_result_yet(look: Any) -> None:
    answer = result_of(look)
    assert answer.status_code in (504, 404, 503, 500)
    assert answer.headers["x-fal-request-timeout-type"] == "user"
    assert "secret" not in answer.text
    if answer.status_code == 504:
        found = answer.json()["detail"]
        assert f"{waiting.RUN_SECONDS:g} s" in found
        assert "http://here/wan/v2.6/requests/vid_a" in found


async def test_nobody_waits_for_a_client_that_has_gone() -> None:
    class Endless(Followed):
        ended = False

        async def follow(self, job: Job, who: Principal, end: float) -> AsyncIterator[Sighting]:
            try:
                await asyncio.Event().wait()
            finally:
                self.ended = True
            yield Sighting(job, Outlook(0, None))

    async def never(*_: Any) -> Any:
        raise AssertionError

    async def receive() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    core = Endless()
    await ResultResponse(call_of(core), QUEUED, never, "http://here")({"type": "http"}, receive, never)
    await asyncio.sleep(0)
    assert core.ended
