"""The sweeper's process: ``python -m serving.sweeper.main`` with the settings as JSON in ZOETROPE_SETTINGS.

Prints ``ready`` once it works. Ends on SIGTERM, on SIGINT, and when its stdin does, for then the supervisor has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading

from serving.artifacts import ArtifactError, ArtifactStore, open_artifacts
from serving.gateway.logs import describe
from serving.gateway.main import StartError, read_settings
from serving.jobs.errors import StoreError
from serving.jobs.open import Stores, open_stores
from serving.net import Guard
from serving.settings import Settings
from serving.sweeper.sender import Sender
from serving.sweeper.sweep import sweep

SEND_SECONDS = 0.1  # between two looks at the outbox
SWEEP_SECONDS = 5.0
log = logging.getLogger("zoetrope.sweeper")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = read_settings()
        artifacts = open_artifacts(settings.artifacts_url)
        with contextlib.closing(open_stores(settings.database_url)) as stores:
            asyncio.run(run(settings, stores, artifacts))
    except (StartError, StoreError, ArtifactError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


async def run(settings: Settings, stores: Stores, artifacts: ArtifactStore) -> None:
    """Work until told to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    threading.Thread(target=_wait_for_supervisor, args=(loop, stopping), name="stdin", daemon=True).start()
    scheme = "https" if settings.tls_cert else "http"
    sender = Sender(stores, Guard(allow=settings.allow_networks), settings.public_url or f"{scheme}://{settings.http}")
    sweeping = asyncio.create_task(_sweep_forever(stores, artifacts))
    print("ready", flush=True)
    try:
        while not stopping.is_set():
            try:
                await sender.send_due()
            except StoreError as error:
                log.error("the outbox cannot be read:\n%s", describe(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), SEND_SECONDS)
    finally:
        sweeping.cancel()
        await sender.drain()


async def _sweep_forever(stores: Stores, artifacts: ArtifactStore) -> None:
    while True:
        try:
            await asyncio.to_thread(sweep, stores, artifacts)
        except (StoreError, ArtifactError) as error:
            log.error("the sweep failed:\n%s", describe(error))
        await asyncio.sleep(SWEEP_SECONDS)


def _wait_for_supervisor(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stopping.set)


if __name__ == "__main__":
    sys.exit(main())
