"""What the router tells the database in passing: nobody waits for it, and only the newest of a kind counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from serving.jobs.errors import StoreError, StoreRefused
from serving.router.books import Books
from serving.router.pauses import pauses

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0  # before a database that did not answer is told again
log = logging.getLogger("zoetrope.router")


class Notes:
    """However long the database is away, no more is kept than one note of each kind for each job and engine."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._notes: dict[tuple[str, str], Callable[[], object]] = {}
        self._some = asyncio.Event()

    def put(self, kind: str, of: str, write: Callable[[], object]) -> None:
        """Have ``write`` called in a thread, instead of an earlier one of this kind about the same job or engine."""
        self._notes[kind, of] = write
        self._some.set()

    async def run(self) -> None:
        """Write what is put, until cancelled."""
        waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            await self._some.wait()
            try:
                await self.flush()
                waits = pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            except StoreError as error:
                log.warning("what goes on cannot be noted: %s", error)
                await asyncio.sleep(next(waits))

    async def flush(self) -> None:
        """Write what has been put so far.

        Raises:
            StoreError: the database does not answer; what is left is kept.
        """
        self._some.clear()
        notes, self._notes = self._notes, {}
        try:
            await self._books.run(lambda: _write(notes))
        finally:
            self._notes = notes | self._notes  # what came meanwhile is newer
            if self._notes:
                self._some.set()


def _write(notes: dict[tuple[str, str], Callable[[], object]]) -> None:
    """Write them one by one, and take out each that is written or that never will be."""
    for key in list(notes):
        try:
            notes[key]()
        except StoreRefused as error:
            log.error("%s of %s is not noted: %s", *key, error)
        del notes[key]
