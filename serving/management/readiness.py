"""What makes a process ready: its database answers."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import Stores


class DatabaseCheck:
    """Asks the database in a thread of its own, once at a time: a check must not wait behind what it checks.

    Engines do not count. Jobs are durable, so a gateway takes them while no engine is there yet.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._asking: asyncio.Future[str] | None = None

    async def problem(self) -> str:
        """Return "" if the database answers, else why not."""
        if self._asking is None or self._asking.done():  # one that hangs is waited for, not asked again
            self._asking = asyncio.get_running_loop().run_in_executor(self._thread, self._ask)
        return await asyncio.shield(self._asking)

    def close(self) -> None:
        """Give the thread back."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> str:
        try:
            self._stores.database.read("SELECT 1 AS one")
        except StoreError as error:
            return str(error)
        return ""
