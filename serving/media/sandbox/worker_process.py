"""The parent's side of one `serving.media.sandbox.worker` process."""

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

from zoetrope.serving.media.sandbox.confine import Layer, lacking
from zoetrope.serving.media.sandbox.worker import CHILD

MODULE = "zoetrope.serving.media.sandbox.worker"
START_SECONDS = 60.0
GRACE_SECONDS = 1.0  # beyond the time limit, for a request to end by itself
ANSWER_BYTES = 1 << 20
STATUS_BYTES = 1 << 14


class RequestDied(Exception):
    """The process that examined a file was killed or died. The argument is the cause, such as "time" or "SIGSEGV"."""


class WorkerLost(OSError):
    """A worker did not start, or exited; the file is not at fault."""


class RequestKilled(WorkerLost):
    """The process that examined a file was killed from outside, for example by the kernel for lack of memory. The file
    is not at fault unless it happens every time."""


class NotConfined(WorkerLost):
    """Too few confinement layers hold on this machine to decode untrusted files."""


class MediaWorker:
    """One worker process, with a child for each request."""

    def __init__(self, hard_memory_bytes: int, *, unsafe: bool = False) -> None:
        """Start the process.

        Args:
            hard_memory_bytes: the maximum address space of any request.
            unsafe: start even if confinement layers are missing.

        Raises:
            NotConfined: too few layers hold. WorkerLost: the process does not start.
        """
        paths = [os.path.abspath(path) for path in sys.path]
        # Not the parent's environment, which may contain keys.
        environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",  # each arena takes 64 MiB of address space
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
                start_new_session=True,  # so that Ctrl-C reaches only the parent
            )
        try:
            message = self._message(time.monotonic() + START_SECONDS)
        except TimeoutError:
            self.kill()
            raise WorkerLost(f"a media worker did not start within {START_SECONDS:g} s") from None
        except EOFError:
            raise WorkerLost(f"a media worker did not start: {self._end()}") from None
        self.layers = [Layer(**layer) for layer in message["layers"]]
        if not unsafe and (lacks := lacking(self.layers)):
            self.kill()
            raise NotConfined(f"decoding workers cannot be confined, they lack: {', '.join(lacks)}")

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], descriptors: Sequence[int], seconds: float) -> Any:
        """Send a request and return the answer's JSON, which may be anything if the file has taken over the decoder.

        Args:
            descriptors: the file and, for some operations, the result.

        Raises:
            RequestDied: the child that handled it died or was killed. WorkerLost: the worker itself died.
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
            # Trust the answer only after the child has exited, when it can no longer change the result.
            status = self._status(answer[: CHILD.size], deadline)
        except TimeoutError:
            self.kill()
            raise RequestDied("time") from None
        except ValueError as error:
            self.kill()
            raise RequestDied(str(error)) from None
        except EOFError:
            raise WorkerLost(f"a media worker exited: {self._end()}") from None
        finally:
            os.close(reading)
        if status:
            raise RequestDied(_cause(status))
        try:
            return json.loads(answer[CHILD.size :])
        except (ValueError, RecursionError):
            raise RequestDied("an invalid answer") from None

    def kill(self) -> None:
        """Kill the process and its children. May be called repeatedly."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill the process and close its socket; only from the thread that calls `ask`."""
        self.kill()
        self._channel.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        """Receive the worker's next message.

        Raises:
            TimeoutError: none by the deadline. EOFError: the worker exited.
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
        """Wait for the exit status of a child, given as a packed process id; if that is incomplete, of the next one."""
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
        TimeoutError: not done by the deadline. ValueError: more than ANSWER_BYTES.
    """
    received = b""
    while True:
        _wait(descriptor, deadline)
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return received
        received += chunk
        if len(received) > ANSWER_BYTES:
            raise ValueError("an endless answer")


def _wait(descriptor: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
        if time.monotonic() >= deadline:
            raise TimeoutError
