"""The sweeper's process: ``python -m serving.sweeper.main`` with the settings as JSON in ZOETROPE_SETTINGS.

Prints ``ready`` once it works, and then signs of life. Ends on SIGTERM, on SIGINT, and when its stdin does, for then
the supervisor has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.shelf import Shelf, SnapshotError
from serving.artifacts import ArtifactError, ArtifactStore, open_artifacts
from serving.gateway.logs import describe
from serving.jobs.errors import StoreError
from serving.jobs.open import Stores, open_stores
from serving.net import Guard
from serving.pulse import keep_beating
from serving.settings import Settings
from serving.startup import StartError, read_settings
from serving.stopping import stop_on_signals
from serving.sweeper.sender import AT_ONCE, Sender
from serving.sweeper.sweep import sweep, tidy

SEND_SECONDS = 0.1  # between two looks at the outbox
SWEEP_SECONDS = 5.0
TIDY_SECONDS = 60.0
THREADS = 2 * AT_ONCE  # that may wait for names to be looked up, and for the database beside them
log = logging.getLogger("zoetrope.sweeper")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = read_settings()
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
    snapshots = Shelf(str(settings.snapshots))
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


async def _repeat(duty: Callable[[], object], seconds: float) -> None:
    while True:
        try:
            await asyncio.to_thread(duty)
        except (StoreError, ArtifactError) as error:
            log.error("the sweep failed:\n%s", describe(error))
        await asyncio.sleep(seconds)


if __name__ == "__main__":
    sys.exit(main())
