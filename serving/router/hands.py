"""The jobs that a router has in hand: it claims them, keeps their leases and writes how they end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from serving.jobs.errors import StoreError, StoreRefused
from serving.jobs.job import Job, Need, State
from serving.router.books import Books, Ending
from serving.router.pauses import pauses

POLL_SECONDS = 0.1  # how often new jobs and cancellations are looked for
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0  # before a database that did not answer is asked again
GRACE_SECONDS = 2.0  # after that, before a claim: others renew their leases first, which ran out meanwhile
log = logging.getLogger("zoetrope.router")

UNSTORABLE = Ending(State.FAILED, error_code="INTERNAL", error_message="how it ended cannot be stored")
TOO_LATE = Ending(State.FAILED, error_code="DEADLINE_EXCEEDED", error_message="it was not done by its deadline")


@dataclass(eq=False)
class Hand:
    """A job whose lease is ours. ``ending``: what is left to do is to write how it ended."""

    job: Job
    task: asyncio.Task[None] | None = None
    ending: bool = False


class Hands:
    """A lease that runs out while the database is away is renewed once it is back, unless somebody else took the job,
    which the renewal tells. Two loops are to be run, `claim` and `renew`."""

    def __init__(
        self,
        books: Books,
        room: int,
        work: Callable[[Job], Awaitable[Ending]],
        drop: Callable[[Job], None],
        clear: Callable[[Job, bool, list[str]], Awaitable[None]],
    ) -> None:
        """
        Args:
            room: jobs at a time.
            work: makes a job, and says how it ended; cancelled where that does not matter any more.
            drop: called at once when that is so.
            clear: deletes these files and, where the job is over and not somebody else's, what else is left of it.
        """
        self._books = books
        self._room = room
        self._work = work
        self._drop = drop
        self._clear = clear
        self._hands: dict[str, Hand] = {}
        self._away_at = -math.inf  # when the database did not answer, last
        self._stopping = False
        self._claiming = asyncio.Lock()
        self._soon = asyncio.Event()

    def job(self, job_id: str) -> Job | None:
        """The job, where it is in hand."""
        hand = self._hands.get(job_id)
        return None if hand is None else hand.job

    def look(self) -> None:
        """Renew leases now, for a step has ended: a job that is to end should not take many more."""
        self._soon.set()

    async def claim(self) -> None:
        """Take jobs on as long as there is room."""
        waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            pause, free = POLL_SECONDS, self._room - len(self._hands)
            if free > 0 and time.monotonic() > self._away_at + GRACE_SECONDS:
                try:
                    await self._claim(free)
                    waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                except StoreError as error:
                    log.warning("no jobs can be claimed: %s", error)
                    self._away_at, pause = time.monotonic(), next(waits)
            await asyncio.sleep(pause)

    async def renew(self) -> None:
        """Prolong all leases in one write, again and again; work on jobs that were lost or are to end stops."""
        waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            hands = dict(self._hands)
            try:
                needs = await self._books.renew(_leases(hands))
            except StoreError as error:
                log.warning("leases cannot be renewed: %s", error)
                self._away_at = time.monotonic()
                await asyncio.sleep(next(waits))
                continue
            waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            for job_id, need in needs.items():
                if self._hands.get(job_id) is hands[job_id] and not hands[job_id].ending:  # else it ended meanwhile
                    self._take_off(hands[job_id], need)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), POLL_SECONDS)
            self._soon.clear()

    async def put_down(self, seconds: float) -> None:
        """Take no more jobs, stop to work on those in hand and give their leases back, so that anybody may go on with
        them at once. Those that have ended are written first. It takes three times ``seconds`` at the most; leases that
        cannot be given back by then run out."""
        self._stopping = True
        try:
            async with asyncio.timeout(seconds), self._claiming:
                pass  # what is being claimed has come
        except TimeoutError:
            log.warning("a claim is not answered")
        for hand in self._hands.values():
            if not hand.ending and hand.task is not None:
                hand.task.cancel()
        if tasks := [hand.task for hand in self._hands.values() if hand.task is not None]:
            await asyncio.wait(tasks, timeout=seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._books.release(_leases(self._hands))
        except (StoreError, TimeoutError) as error:
            log.warning("leases cannot be given back: %s", error or "no answer")

    async def _claim(self, limit: int) -> None:
        async with self._claiming:
            if self._stopping:
                return
            for job in await self._books.claim(limit, tuple(self._hands)):
                hand = self._hands[job.id] = Hand(job)
                if not self._stopping:  # else its lease is given back with the others
                    hand.task = asyncio.create_task(self._make(hand))

    def _take_off(self, hand: Hand, need: Need) -> None:
        self._drop(hand.job)  # now, not when the task gets to it: a plan may be made in between
        if hand.task is not None:
            hand.task.cancel()
        if need == "lost":
            log.info("job %s: lease lost", hand.job.id)
            del self._hands[hand.job.id]
        else:
            hand.ending = True
            ending = TOO_LATE if need == "deadline" else Ending(State.CANCELLED)
            hand.task = asyncio.create_task(self._end(hand, ending))

    async def _make(self, hand: Hand) -> None:
        ending = await self._work(hand.job)
        if hand.task is asyncio.current_task():  # nobody has told us otherwise
            hand.ending = True
            await self._end(hand, ending)

    async def _end(self, hand: Hand, ending: Ending) -> None:
        """Write how a job ended and let go of it. One whose end cannot be written at all is left to whoever claims it
        next; after so many attempts it is given up."""
        try:
            held, useless = await self._write(hand.job, ending)
        except Exception:
            log.exception("job %s: how it ended cannot be written", hand.job.id)
            return
        finally:
            if self._hands.get(hand.job.id) is hand:
                del self._hands[hand.job.id]
        await self._clear(hand.job, held, useless)

    async def _write(self, job: Job, ending: Ending) -> tuple[bool, list[str]]:
        """Write how a job ended, as soon as the database takes it.

        Returns:
            Whether it ended so, for it may be somebody else's by now; and files that nobody will ever ask for.

        Raises:
            StoreRefused: not even that it failed can be written.
        """
        waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        useless: list[str] = []
        while True:
            try:
                held = await self._books.end(job, ending)
                return held, useless if held else useless + ending.files
            except StoreRefused as error:
                if ending is UNSTORABLE:
                    raise
                log.error("job %s: the database refuses its end as %s: %s", job.id, ending.state, error)
                useless, ending = ending.files, UNSTORABLE
            except StoreError as error:
                log.warning("job %s: cannot be ended yet: %s", job.id, error)
                await asyncio.sleep(next(waits))


def _leases(hands: dict[str, Hand]) -> list[tuple[str, int]]:
    return [(hand.job.id, hand.job.lease_epoch) for hand in hands.values()]
