"""The sweeper's process: ``python -m zoetrope.serving.sweeper.main`` with the settings as JSON in ZOETROPE_SETTINGS.

Prints ``ready`` once it works, and heartbeats after that. Ends on SIGTERM, on SIGINT, and when its stdin closes,
because then the supervisor has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from zoetrope.cluster.snapshots.objects import SnapshotError, SnapshotObjects
from zoetrope.cluster.telemetry.metrics import SWEEPS, SWEPT_AT
from zoetrope.cluster.telemetry.process import begin
from zoetrope.cluster.telemetry.traces import flush_traces
from zoetrope.serving.config.heartbeat import keep_beating
from zoetrope.serving.config.logs import describe, set_up
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.shutdown import stop_on_signals
from zoetrope.serving.config.startup_checks import StartError, read_settings
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.outbound import Guard
from zoetrope.serving.storage.store import ArtifactError, ArtifactStore, open_artifacts
from zoetrope.serving.sweeper.sender import AT_ONCE, Sender
from zoetrope.serving.sweeper.sweep import sweep, tidy

SEND_SECONDS = 0.1  # between two looks at the outbox
SWEEP_SECONDS = 5.0
TIDY_SECONDS = 60.0
THREADS = 2 * AT_ONCE  # which may wait for DNS lookups, and for the database at the same time
log = logging.getLogger("zoetrope.sweeper")


def main() -> int:
    try:
        settings = read_settings()
        set_up(settings.log_format)
        begin("sweeper")
        artifacts = open_artifacts(settings.artifacts_url)
        with contextlib.closing(open_stores(settings.database_url)) as stores:
            asyncio.run(run(settings, stores, artifacts))
    except (StartError, StoreError, ArtifactError, SnapshotError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


async def run(settings: Settings, stores: Stores, artifacts: ArtifactStore) -> None:
    """Work until told to stop."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    stopping = asyncio.Event()
    stop_on_signals(stopping.set)
    scheme = "https" if settings.tls_cert else "http"
    sender = Sender(stores, Guard(allow=settings.allow_networks), settings.public_url or f"{scheme}://{settings.http}")
    snapshots = SnapshotObjects(str(settings.snapshots))
    sweeping = [
        asyncio.create_task(_repeat(lambda: sweep(stores, artifacts, snapshots), SWEEP_SECONDS)),
        asyncio.create_task(_repeat(lambda: tidy(stores, artifacts, snapshots), TIDY_SECONDS)),
    ]
    for task in sweeping:  # none ends by itself; should one fail, the supervisor starts another sweeper
        task.add_done_callback(lambda _: stopping.set())
    print("ready", flush=True)
    beating = asyncio.create_task(keep_beating())
    try:
        while not stopping.is_set():
            try:
                await sender.send_due()
            except StoreError as error:
                log.error("the outbox cannot be read:\n%s", describe(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), SEND_SECONDS)
    finally:
        for task in (beating, *sweeping):
            task.cancel()
        for outcome in await asyncio.gather(*sweeping, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("the sweep ended:\n%s", describe(outcome))
        await sender.drain()
        await asyncio.to_thread(flush_traces)


async def _repeat(duty: Callable[[], object], seconds: float) -> None:
    while True:
        try:
            await asyncio.to_thread(duty)
        except (StoreError, ArtifactError) as error:
            SWEEPS.labels("failed").inc()
            log.error("the sweep failed:\n%s", describe(error))
        else:
            SWEEPS.labels("done").inc()
            SWEPT_AT.set(time.time())
        await asyncio.sleep(seconds)


if __name__ == "__main__":
    sys.exit(main())
