"""The sweeper's process: `zoetrope sweeper`, or ``python -m zoetrope.serving.sweeper.main`` under the supervisor, with
the settings as JSON in ZOETROPE_SETTINGS.

Prints ``ready`` once it works. Ends on SIGTERM and SIGINT; a supervised one sends heartbeats, and ends when its stdin
closes, because then the supervisor has died. Several may work on one database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from zoetrope.cluster.snapshots.objects import SnapshotError, SnapshotObjects
from zoetrope.cluster.telemetry.exposition import registry
from zoetrope.cluster.telemetry.metrics import SWEEPS, SWEPT_AT
from zoetrope.cluster.telemetry.process import begin
from zoetrope.cluster.telemetry.traces import flush_traces
from zoetrope.serving.config.addresses import AddressError, is_unspecified
from zoetrope.serving.config.heartbeat import keep_beating
from zoetrope.serving.config.logs import describe, set_up
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.shutdown import stop_on_signals
from zoetrope.serving.config.startup_checks import StartError, make_directory, read_settings
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.management.readiness import DatabaseCheck
from zoetrope.serving.management.server import start_management
from zoetrope.serving.outbound import Guard
from zoetrope.serving.storage.store import ArtifactError, ArtifactStore, open_artifacts
from zoetrope.serving.sweeper.sender import AT_ONCE, Sender
from zoetrope.serving.sweeper.sweep import discard_old, sweep, tidy

SEND_SECONDS = 0.1  # between two looks at the outbox
SWEEP_SECONDS = 5.0
TIDY_SECONDS = 60.0
OLD_SECONDS = 3_600.0
STUCK_SECONDS = 900.0  # longer than a round takes that has to delete what gathered in a week
THREADS = 2 * AT_ONCE  # which may wait for DNS lookups, and for the database at the same time
log = logging.getLogger("zoetrope.sweeper")


def main() -> int:
    try:
        settings = read_settings()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return serve(settings)


def serve(settings: Settings, *, supervised: bool = True) -> int:
    """Sweep until told to stop; the exit status.

    Args:
        supervised: send heartbeats to a supervisor and end with it, else run on its own whatever becomes of stdin.
    """
    set_up(settings.log_format)
    begin("sweeper")
    try:
        make_directory(settings)
        artifacts = open_artifacts(settings.artifacts_url)
        with contextlib.closing(open_stores(settings.database_url, migrate=settings.may_migrate)) as stores:
            in_order = asyncio.run(run(settings, stores, artifacts, supervised))
    except (StartError, AddressError, StoreError, ArtifactError, SnapshotError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0 if in_order else 1


class Duty:
    """Work that is done again and again, in a thread."""

    def __init__(self, name: str, work: Callable[[], object], seconds: float) -> None:
        """
        Args:
            seconds: between the end of a round and the next one.
        """
        self.name = name
        self._work = work
        self._seconds = seconds
        self._ended = time.monotonic()

    @property
    def stuck(self) -> bool:
        """Tell whether a round has lasted so long that it will not end."""
        return time.monotonic() - self._ended > STUCK_SECONDS + self._seconds

    async def run(self) -> None:
        """Work until cancelled. What a store refuses is tried again in the next round."""
        while True:
            try:
                await asyncio.to_thread(self._work)
            except (StoreError, ArtifactError) as error:
                SWEEPS.labels("failed").inc()
                log.error("the %s failed:\n%s", self.name, describe(error))
            else:
                SWEEPS.labels("done").inc()
                SWEPT_AT.set(time.time())
            self._ended = time.monotonic()
            await asyncio.sleep(self._seconds)


async def run(settings: Settings, stores: Stores, artifacts: ArtifactStore, supervised: bool = True) -> bool:
    """Work until told to stop, or until something breaks.

    Returns:
        Whether nothing broke.

    Raises:
        SnapshotError, ValueError: the snapshots cannot be opened, or allow_networks is malformed.
        AddressError, StartError: the management port cannot be bound.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    stopping = asyncio.Event()
    stop_on_signals(stopping.set, with_stdin=supervised)
    sender = Sender(stores, Guard(allow=settings.allow_networks), _base_url(settings))
    snapshots = SnapshotObjects(settings.snapshots_url)
    duties = (
        Duty("sweep", lambda: sweep(stores, artifacts, snapshots), SWEEP_SECONDS),
        Duty("tidying", lambda: tidy(stores, artifacts, snapshots), TIDY_SECONDS),
        Duty("search for old snapshots", lambda: discard_old(snapshots), OLD_SECONDS),
    )
    async with _managed(settings, stores, duties):
        sweeping = [asyncio.create_task(duty.run()) for duty in duties]
        for task in sweeping:  # none ends by itself; should one fail, another sweeper is started
            task.add_done_callback(lambda _: stopping.set())
        print("ready", flush=True)
        background = [*sweeping, *([asyncio.create_task(keep_beating())] if supervised else [])]
        try:
            while not stopping.is_set():
                try:
                    await sender.send_due()
                except StoreError as error:
                    log.error("the outbox cannot be read:\n%s", describe(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), SEND_SECONDS)
        finally:
            for task in background:
                task.cancel()
            outcomes = await asyncio.gather(*background, return_exceptions=True)
            broken = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            for breach in broken:
                log.error("the sweep ended:\n%s", describe(breach))
            await sender.drain()
            await asyncio.to_thread(flush_traces)
    return not broken


@contextlib.asynccontextmanager
async def _managed(settings: Settings, stores: Stores, duties: Sequence[Duty]) -> AsyncIterator[None]:
    """Serve the management port, if there is one."""
    if not settings.management:
        yield
        return
    database = DatabaseCheck(stores)

    async def alive() -> str:
        return next((f"the {duty.name} hangs" for duty in duties if duty.stuck), "")

    management = await start_management(settings.management, ready=database.problem, alive=alive, registry=registry())
    try:
        yield
    finally:
        await management.close()
        database.close()


def _base_url(settings: Settings) -> str:
    """Return where clients reach the HTTP side, for the links in webhooks."""
    scheme = "https" if settings.tls_cert else "http"
    if not settings.public_url and is_unspecified(settings.http, "http"):
        log.warning("public_url is not set: links in webhooks will name %s://%s", scheme, settings.http)
    return settings.public_url or f"{scheme}://{settings.http}"


if __name__ == "__main__":
    sys.exit(main())
