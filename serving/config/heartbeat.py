"""Heartbeats: a child process prints one line when ready, then an empty line every second."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

BEAT_SECONDS = 1.0


def beat() -> None:
    """Send a heartbeat. Never blocks or raises, even if the supervisor is gone or does not read."""
    with suppress(OSError):
        os.set_blocking(1, False)
        os.write(1, b"\n")


async def keep_beating() -> None:
    """Send heartbeats for as long as the event loop runs."""
    while True:
        beat()
        await asyncio.sleep(BEAT_SECONDS)
