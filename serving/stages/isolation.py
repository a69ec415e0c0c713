"""Isolate jobs that may have killed the process of a stage: others share it, suspects run alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from zoetrope.model.request.specs import VideoSpec
from zoetrope.serving.stages.failures import Remedy, StageError, classify

T = TypeVar("T")
MAX_DEATHS = 3  # of the process while a job is alone in it, before the job is blamed
log = logging.getLogger("zoetrope.stages")


class IsolatedStage:
    """A stage as the router calls it.

    If the process dies, every job in it becomes a suspect: suspects are retried one at a time, with no other job in the
    process. One death may have any cause, so a job is blamed only after `MAX_DEATHS` deaths while it was alone. A job
    that ran out of memory or time fails if it does so again alone.
    """

    def __init__(self, name: str, handle: Any) -> None:
        """``handle``: the deployment's; it also has ``alive()``, which answers if the process runs."""
        self.name = name
        self._handle = handle
        self._deaths: dict[str, int] = {}  # suspect -> deaths of the process while it was alone
        self._inside = 0
        self._alone = 0  # suspects that run alone, or wait to
        self._one = asyncio.Lock()
        self._changed = asyncio.Event()

    async def ask(self, job_id: str, spec: VideoSpec, call: Callable[[Any], Awaitable[T]]) -> T:
        """Return ``call(handle)``, run beside other jobs unless this one is a suspect.

        Raises:
            StageError: the call failed; its ``remedy`` says what to do.
        """
        suspect = job_id in self._deaths
        async with self._exclusive() if suspect else self.shared() as handle:
            if suspect:
                await self._wait_for_process(spec)
            try:
                answer = await call(handle)
            except Exception as error:
                raise self._blamed(job_id, suspect, classify(error, spec)) from None
        self.forget(job_id)
        return answer

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[Any]:
        """Yield the handle, for work that is never blamed; waits while a suspect runs alone."""
        while self._alone:
            await self._changed.wait()
        self._inside += 1
        try:
            yield self._handle
        finally:
            self._inside -= 1
            self._wake()

    def forget(self, job_id: str) -> None:
        """Clear suspicion of a job that succeeded or ended."""
        self._deaths.pop(job_id, None)

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[Any]:
        self._alone += 1  # from now on no other job enters
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
        """Wait until the process runs, so that a death counts only with the job in it."""
        try:
            await self._handle.alive.remote()
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
