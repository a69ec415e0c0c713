"""One `serving.media.worker` as its parent sees it."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

from serving.media.worker import LENGTH, read_message, write_message

START_SECONDS = 60.0
ANSWER_BYTES = 1 << 20


class WorkerGone(Exception):
    """It was killed or died: "time", or what it died of."""


class Worker:
    """One process."""

    def __init__(self, hard_memory_bytes: int) -> None:
        paths = [os.path.abspath(path) for path in sys.path]
        # Nothing of the parent's environment: it may hold keys.
        environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",  # each further arena takes 64 MiB of address space
        }
        command = [sys.executable, "-m", "serving.media.worker", str(os.getpid()), str(hard_memory_bytes)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the parent
            bufsize=0,
        )
        self.answered = 0
        self.missing: list[str] = self._receive(START_SECONDS).get("missing", [])

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Raises WorkerGone; the worker is dead then."""
        assert self._process.stdin is not None
        try:
            write_message(self._process.stdin, request)  # type: ignore[arg-type]
        except OSError:
            raise self._gone() from None
        answer = self._receive(seconds)
        self.answered += 1
        return answer

    def kill(self) -> None:
        """End it and wait for that; more than once is fine."""
        self._process.kill()
        self._process.wait()

    def _receive(self, seconds: float) -> dict[str, Any]:
        """One answer, however slowly it comes."""
        assert self._process.stdout is not None
        descriptor, deadline, received = self._process.stdout.fileno(), time.monotonic() + seconds, b""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise WorkerGone("time")
            if not poll.poll(left * 1_000):
                continue
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._gone()
            received += chunk
            if len(received) >= LENGTH.size:
                length = LENGTH.unpack(received[: LENGTH.size])[0]
                if length > ANSWER_BYTES:
                    self.kill()
                    raise WorkerGone("an answer without end")
                if len(received) >= LENGTH.size + length:
                    message = read_message(io.BytesIO(received))
                    assert message is not None
                    return message

    def _gone(self) -> WorkerGone:
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return WorkerGone("time")
        return WorkerGone(signal.Signals(-status).name if status < 0 else f"status {status}")
