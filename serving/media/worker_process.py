"""One `serving.media.worker` as its parent sees it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from serving.media.confine import Layer, lacking
from serving.media.worker import CHILD

MODULE = "serving.media.worker"
START_SECONDS = 60.0
GRACE_SECONDS = 1.0  # for a worker to end a request by itself
ANSWER_BYTES = 1 << 20
STATUS_BYTES = 1 << 14


class RequestDied(Exception):
    """The process that looked at a file was killed or died: "time", or what it died of."""


class WorkerLost(OSError):
    """A worker does not start, or ended: the fault is ours."""


class RequestKilled(WorkerLost):
    """Somebody killed the process that looked at a file, the kernel for want of memory for one: no fault of the file's,
    unless it happens each time."""


class NotConfined(WorkerLost):
    """So little of the confinement holds here that files from outside are not decoded."""


class Worker:
    """One process, with a child for each request."""

    def __init__(self, hard_memory_bytes: int, *, unsafe: bool = False) -> None:
        """Start it.

        Args:
            unsafe: whatever the confinement lacks.

        Raises:
            NotConfined, WorkerLost.
        """
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
        arguments = [str(os.getpid()), str(hard_memory_bytes), "unsafe" if unsafe else "confined"]
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the parent
            )
        try:
            message = self._message(time.monotonic() + START_SECONDS)
        except TimeoutError:
            self.kill()
            raise WorkerLost(f"a media worker does not start within {START_SECONDS:g} s") from None
        except EOFError:
            raise WorkerLost(f"a media worker does not start: {self._end()}") from None
        self.layers = [Layer(**layer) for layer in message["layers"]]
        if not unsafe and (lacks := lacking(self.layers)):
            self.kill()
            raise NotConfined(f"files from outside are not decoded, for workers lack: {', '.join(lacks)}")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], descriptors: Sequence[int], seconds: float) -> Any:
        """Have a file looked at; what the answer's JSON holds, which may be anything if the file has taken over the
        process that answers.

        Args:
            descriptors: the file, and where its result goes.

        Raises:
            RequestDied. WorkerLost: the worker itself is dead.
        """
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        reading, writing = os.pipe()
        try:
            try:
                socket.send_fds(self._channel, [json.dumps(request).encode()], [writing, *descriptors])
            except OSError:
                raise EOFError from None
            finally:
                os.close(writing)
            answer = _read_all(reading, deadline)
            # The child ends before its answer is believed: nobody else holds the results any more.
            status = self._status(answer[: CHILD.size], deadline)
        except TimeoutError:
            self.kill()
            raise RequestDied("time") from None
        except ValueError as error:
            self.kill()
            raise RequestDied(str(error)) from None
        except EOFError:
            raise WorkerLost(f"a media worker ended: {self._end()}") from None
        finally:
            os.close(reading)
        if status:
            raise RequestDied(_cause(status))
        try:
            return json.loads(answer[CHILD.size :])
        except (ValueError, RecursionError):
            raise RequestDied("an answer that is none") from None

    def kill(self) -> None:
        """End it, and its child; more than once is fine."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it and let go of what belongs to it; from the thread that asks."""
        self.kill()
        self._channel.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        """Receive the next one of the worker.

        Raises:
            TimeoutError, EOFError.
        """
        _wait(self._channel.fileno(), deadline)
        try:
            data = self._channel.recv(STATUS_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        message: dict[str, Any] = json.loads(data)
        return message

    def _status(self, child: bytes, deadline: float) -> int:
        """Wait for the child that says who it is, or, where it came to nothing before that, for the next one to end."""
        while True:
            ended = self._message(deadline)
            if len(child) < CHILD.size or CHILD.unpack(child)[0] == ended["child"]:
                return os.waitstatus_to_exitcode(ended["status"])

    def _end(self) -> str:
        return _cause(self._process.wait())


def _cause(status: int) -> str:
    if -status in (signal.SIGXCPU, signal.SIGALRM):
        return "time"
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def _read_all(descriptor: int, deadline: float) -> bytes:
    """Read to the end.

    Raises:
        TimeoutError. ValueError: there is no end to it.
    """
    received = b""
    while True:
        _wait(descriptor, deadline)
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return received
        received += chunk
        if len(received) > ANSWER_BYTES:
            raise ValueError("an answer without end")


def _wait(descriptor: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
        if time.monotonic() >= deadline:
            raise TimeoutError
