"""What a process tells its supervisor: one line when it works, and then an empty one now and then."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

BEAT_SECONDS = 1.0


def beat() -> None:
    """Give a sign of life; to nobody, and at once, where the supervisor is gone or does not read."""
    with suppress(OSError):
        os.set_blocking(1, False)
        os.write(1, b"\n")


async def keep_beating() -> None:
    """Give signs of life for as long as the loop turns."""
    while True:
        beat()
        await asyncio.sleep(BEAT_SECONDS)
