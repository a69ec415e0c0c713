"""Writes progress to the database in the background: nobody waits for it, and only the newest of a kind counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from zoetrope.serving.jobs.db.errors import StoreError, StoreRefused
from zoetrope.serving.router.backoff import backoff
from zoetrope.serving.router.job_database import RouterDatabase

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0  # before a write is retried
log = logging.getLogger("zoetrope.router")


class ProgressWriter:
    """Keeps at most one pending write of each kind for each job and engine, however long the database is
    unavailable."""

    def __init__(self, database: RouterDatabase) -> None:
        self._database = database
        self._pending: dict[tuple[str, str], Callable[[], object]] = {}
        self._any = asyncio.Event()

    def put(self, kind: str, of: str, write: Callable[[], object]) -> None:
        """Have ``write`` called in a thread. It replaces a pending one of this kind for the same job or engine."""
        self._pending[kind, of] = write
        self._any.set()

    async def run(self) -> None:
        """Write what is pending, until cancelled."""
        waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            await self._any.wait()
            try:
                await self.flush()
                waits = backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            except StoreError as error:
                log.warning("progress cannot be written: %s", error)
                await asyncio.sleep(next(waits))

    async def flush(self) -> None:
        """Write what is pending.

        Raises:
            StoreError: the database does not answer; the remaining writes are kept.
        """
        self._any.clear()
        pending, self._pending = self._pending, {}
        try:
            await self._database.run(lambda: _write(pending))
        finally:
            self._pending = pending | self._pending  # what came meanwhile is newer
            if self._pending:
                self._any.set()


def _write(pending: dict[tuple[str, str], Callable[[], object]]) -> None:
    """Make the writes one by one, and remove each that succeeded or never will."""
    for key in list(pending):
        try:
            pending[key]()
        except StoreRefused as error:
            log.error("%s of %s is not written: %s", *key, error)
        del pending[key]
