"""What an engine says again to a router that does not take it, and what it does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from ray.exceptions import ActorDiedError, RaySystemError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from zoetrope.cluster.engine import router_client
from zoetrope.cluster.engine.router_client import MAX_REFUSALS, RouterClient, RouterRefused
from zoetrope.cluster.protocol.messages import Report, StepPlan

REPORT = Report("e1", 1, "nano")
PLAN = StepPlan(advance=("a",))


def raised(error: Exception) -> Exception:
    """By the router's code, as it comes out of a handle."""
    arrived: Exception = RayTaskError("next_plan", "Traceback", error, "title", 1, "ip").as_instanceof_cause()
    return arrived


class Router:
    """Raises what ``fail`` gives for each call, counted from 1."""

    def __init__(self, fail: Callable[[int], Exception | None]) -> None:
        self.calls = 0
        self._fail = fail
        self.next_plan = self.tell = self

    async def remote(self, report: Report) -> StepPlan:
        assert report == REPORT
        self.calls += 1
        if error := self._fail(self.calls):
            raise error
        return PLAN


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_client, "RETRY_SECONDS", 0.0)


def line_to(router: Router) -> RouterClient:
    return RouterClient(router, "e1", asyncio.Event())


@pytest.mark.parametrize(
    "error",
    [ActorDiedError(), DeploymentUnavailableError("Router"), raised(ActorDiedError())],  # type: ignore[arg-type]
    ids=["dead", "unavailable", "dead behind it"],
)
async def test_a_router_that_is_away_is_asked_until_it_answers(error: Exception) -> None:
    router = Router(lambda call: error if call < 50 else None)
    assert await line_to(router).ask(REPORT) == PLAN
    assert router.calls == 50


@pytest.mark.parametrize("error", [raised(KeyError("x")), RaySystemError("cannot be read")])
async def test_what_is_refused_is_not_said_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    router = Router(lambda call: error if call in (1, 2) else None)
    one = line_to(router)
    with caplog.at_level(logging.ERROR, "zoetrope.engine"):
        assert await one.ask(REPORT) == StepPlan()
        await one.tell(REPORT)
    assert router.calls == 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert await one.ask(REPORT) == PLAN


async def test_an_engine_gives_up_a_router_that_refuses_everything() -> None:
    router = Router(lambda call: raised(KeyError("x")) if call != 2 else None)
    one = line_to(router)
    assert [await one.ask(REPORT) for _ in range(MAX_REFUSALS + 1)] == [
        StepPlan(),
        PLAN,
        *[StepPlan()] * (MAX_REFUSALS - 1),
    ]
    with pytest.raises(RouterRefused, match="5 reports in a row, this one with KeyError: 'x'"):
        await one.ask(REPORT)


async def test_an_engine_that_stops_does_not_wait_for_the_router() -> None:
    router = Router(lambda _: ActorDiedError())
    stopping = asyncio.Event()
    one = RouterClient(router, "e1", stopping)
    asking = asyncio.create_task(one.ask(REPORT))
    while router.calls < 3:
        await asyncio.sleep(0)
    stopping.set()
    assert await asking == StepPlan()
    await one.farewell(REPORT)
    assert await one.ask_once(REPORT) == StepPlan()
