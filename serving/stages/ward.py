"""Who is in the process of a stage: jobs side by side, and alone those that may have brought it down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from model.tasks import VideoSpec
from serving.stages.failures import Remedy, StageError, told

T = TypeVar("T")
MAX_DEATHS = 3  # of the process with a job alone in it, after which the job counts as their cause
log = logging.getLogger("zoetrope.stages")


class Ward:
    """A stage as the router calls it.

    When the process dies, each job that was in it may be the cause and is a suspect: it is tried again with no other
    job there, one suspect after the other, while the others wait. What kills the process once may be anybody, also
    nobody in it, so that only `MAX_DEATHS` alone make a culprit. A job that memory or time did not suffice for fails
    when it does not get through alone.
    """

    def __init__(self, name: str, handle: Any) -> None:
        """``handle``: of the deployment. Beside its work it has ``alive()``, which answers where there is a process."""
        self.name = name
        self._handle = handle
        self._deaths: dict[str, int] = {}  # suspects -> deaths of the process while they were alone in it
        self._inside = 0
        self._alone = 0  # suspects that are alone in it or wait for that
        self._one = asyncio.Lock()
        self._changed = asyncio.Event()

    async def ask(self, job_id: str, spec: VideoSpec, call: Callable[[Any], Awaitable[T]]) -> T:
        """``call(handle)``, side by side with others unless the job is a suspect.

        Raises:
            StageError.
        """
        suspect = job_id in self._deaths
        async with self._by_itself() if suspect else self.beside() as handle:
            if suspect:
                await self._wait_for_process(spec)
            try:
                answer = await call(handle)
            except Exception as error:
                raise self._blamed(job_id, suspect, told(error, spec)) from None
        self.forget(job_id)
        return answer

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Any]:
        """The handle, for work that nobody is blamed for; never while a suspect is alone."""
        while self._alone:
            await self._changed.wait()
        self._inside += 1
        try:
            yield self._handle
        finally:
            self._inside -= 1
            self._wake()

    def forget(self, job_id: str) -> None:
        """The job is through or over."""
        self._deaths.pop(job_id, None)

    @asynccontextmanager
    async def _by_itself(self) -> AsyncIterator[Any]:
        self._alone += 1  # from now on nobody enters
        try:
            async with self._one:
                while self._inside:
                    await self._changed.wait()
                yield self._handle
        finally:
            self._alone -= 1
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for_process(self, spec: VideoSpec) -> None:
        """So that a death is one with the job in it, and none of a process that was dead before."""
        try:
            await self._handle.alive.remote()
        except Exception as error:
            log.info("no %s yet: %s", self.name, type(error).__name__)
            raise StageError("UNAVAILABLE", f"the {self.name} to start again", Remedy.WAIT) from None

    def _blamed(self, job_id: str, alone: bool, failure: StageError) -> StageError:
        """What it comes to for this job."""
        if failure.remedy is not Remedy.ALONE:
            return failure
        died = failure.code == "UNAVAILABLE"
        deaths = self._deaths[job_id] = self._deaths.get(job_id, 0) + alone
        log.warning("job %s: %s: %s, %d times alone", job_id, self.name, failure, deaths)
        if alone and not died:
            return StageError(failure.code, str(failure))
        if deaths < MAX_DEATHS:
            return StageError("UNAVAILABLE", f"the {self.name} to start again: its process died", Remedy.ALONE)
        reason = f"the {self.name} died {deaths} times while it worked on this job alone"
        return StageError("INTERNAL", reason)
