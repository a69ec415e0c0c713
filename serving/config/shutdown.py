"""Stop a process on SIGTERM, on SIGINT, or when its parent is gone (standard input ends)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable


def stop_on_signals(stop: Callable[[], object], *, with_stdin: bool = True) -> None:
    """Make the running loop call ``stop`` on SIGTERM, SIGINT and, with ``with_stdin``, when standard input ends."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    def stop_in_loop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is already closed
            loop.call_soon_threadsafe(stop)

    if with_stdin:
        when_stdin_ends(stop_in_loop)


def stop_with_stdin() -> None:
    """Send this process SIGTERM when its standard input ends, as it does when the parent dies."""
    when_stdin_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))


def when_stdin_ends(then: Callable[[], None]) -> None:
    """Call ``then`` from a thread when standard input ends."""

    def wait() -> None:
        # os.read, because a thread waiting in sys.stdin would hold its lock at exit.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        then()

    threading.Thread(target=wait, name="stdin", daemon=True).start()
