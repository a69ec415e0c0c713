"""Share the processes of a stage between jobs, and isolate those that may have killed one: suspects run alone."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from zoetrope.model.request.specs import VideoSpec
from zoetrope.serving.stages.failures import Remedy, StageError, classify

T = TypeVar("T")
MAX_DEATHS = 3  # of the process while a job is alone in it, before the job is blamed
log = logging.getLogger("zoetrope.stages")


@dataclass(eq=False)
class _Process:
    """A process of the stage. ``suspect``: the waiter for whom it is kept free of others, or who runs in it."""

    handle: Any
    inside: int = 0
    suspect: _Waiter | None = None


@dataclass(eq=False)
class _Waiter:
    """A call that waits for a place in a process. ``job_id``: "" for work that is never blamed."""

    job_id: str
    alone: bool
    number: int
    place: asyncio.Future[_Process]


class IsolatedStage:
    """A stage as the router calls it: one process or several.

    If a process dies, every job in it becomes a suspect: suspects are retried in a process that has no other job in it,
    while the other processes continue. One death may have any cause, so a job is blamed only after `MAX_DEATHS` deaths
    while it was alone. A job that ran out of memory or time fails if it does so again alone.
    """

    def __init__(
        self, name: str, *handles: Any, width: int | None = None, urgency: Callable[[str], Any] = lambda job_id: 0
    ) -> None:
        """
        Args:
            handles: of deployments of one process each; they also have ``alive()``, which answers if the process runs.
            width: calls in a process at a time; None: any number.
            urgency: of a job; of those that wait for a place, the one with the smallest is next.
        """
        self.name = name
        self._processes = [_Process(handle) for handle in handles]
        self._width = math.inf if width is None else width
        self._urgency = urgency
        self._deaths: dict[str, int] = {}  # suspect -> deaths of the process while it was alone
        self._waiters: list[_Waiter] = []
        self._numbers = count()

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        return len(self._waiters)

    @property
    def running(self) -> int:
        """How many calls are in a process."""
        return sum(process.inside for process in self._processes)

    async def ask(self, job_id: str, spec: VideoSpec, call: Callable[[Any], Awaitable[T]]) -> T:
        """Return ``call(handle)``, run beside other jobs unless this one is a suspect.

        Raises:
            StageError: the call failed; its ``remedy`` says what to do.
        """
        suspect = job_id in self._deaths
        async with self._in_a_process(job_id, alone=suspect) as handle:
            if suspect:
                await self._wait_for_process(handle, spec)
            try:
                answer = await call(handle)
            except Exception as error:
                raise self._blamed(job_id, suspect, classify(error, spec)) from None
        self.forget(job_id)
        return answer

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[Any]:
        """Yield a handle, for work that is never blamed and waits behind all jobs."""
        async with self._in_a_process("", alone=False) as handle:
            yield handle

    def forget(self, job_id: str) -> None:
        """Clear suspicion of a job that succeeded or ended."""
        self._deaths.pop(job_id, None)

    @asynccontextmanager
    async def _in_a_process(self, job_id: str, *, alone: bool) -> AsyncIterator[Any]:
        place: asyncio.Future[_Process] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(job_id, alone, next(self._numbers), place)
        self._waiters.append(waiter)
        self._seat_all()
        try:
            process = await place
            yield process.handle
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        """Free what a waiter has: a place, or only a process that is kept free for it."""
        if waiter in self._waiters:  # it was cancelled
            self._waiters.remove(waiter)
        else:
            waiter.place.result().inside -= 1
        for process in self._processes:
            if process.suspect is waiter:
                process.suspect = None
        self._seat_all()

    def _seat_all(self) -> None:
        """Give places to those who wait, as far as there are any. Of several processes one is left to the others,
        however many suspects there are."""
        waiting = [waiter for waiter in self._waiters if not waiter.place.done()]  # others were cancelled
        for waiter in [w for w in waiting if w.alone]:
            free = [process for process in self._processes if process.suspect is None]
            mine = next((process for process in self._processes if process.suspect is waiter), None)
            if mine is None and len(free) > min(1, len(self._processes) - 1):
                mine = min(free, key=lambda process: process.inside)
                mine.suspect = waiter  # from now on no other job enters
            if mine is not None and not mine.inside:
                self._seat(waiter, mine)
        for waiter in sorted((w for w in waiting if not w.alone), key=self._turn):
            open_ = [p for p in self._processes if p.suspect is None and p.inside < self._width]
            if not open_:
                break
            self._seat(waiter, min(open_, key=lambda process: process.inside))

    def _turn(self, waiter: _Waiter) -> tuple[bool, Any, int]:
        return not waiter.job_id, self._urgency(waiter.job_id) if waiter.job_id else 0, waiter.number

    def _seat(self, waiter: _Waiter, process: _Process) -> None:
        self._waiters.remove(waiter)
        process.inside += 1
        waiter.place.set_result(process)

    async def _wait_for_process(self, handle: Any, spec: VideoSpec) -> None:
        """Wait until the process runs, so that a death counts only with the job in it."""
        try:
            await handle.alive.remote()
        except Exception as error:
            log.info("the %s is not running yet: %s", self.name, type(error).__name__)
            raise StageError("UNAVAILABLE", f"the {self.name} to restart", Remedy.WAIT) from None

    def _blamed(self, job_id: str, alone: bool, failure: StageError) -> StageError:
        """Decide what a failure means for this job."""
        if failure.remedy is not Remedy.ALONE:
            return failure
        died = failure.code == "UNAVAILABLE"
        deaths = self._deaths[job_id] = self._deaths.get(job_id, 0) + alone
        log.warning("job %s: %s: %s; deaths while alone: %d", job_id, self.name, failure, deaths)
        if alone and not died:
            return StageError(failure.code, str(failure))
        if deaths < MAX_DEATHS:
            return StageError("UNAVAILABLE", f"the {self.name} to restart: its process died", Remedy.ALONE)
        reason = f"the {self.name} died {deaths} times while it worked on this job alone"
        return StageError("INTERNAL", reason)
