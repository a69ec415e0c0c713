"""Worker processes behind threads: one each, replaced when it dies or hangs. Tenants take turns at them, and one of
several is kept for what takes little time."""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from serving.media.confine import Layer
from serving.media.errors import MediaError, TookTooLong
from serving.media.worker_process import RequestDied, RequestKilled, Worker
from serving.shares import Shares

T = TypeVar("T")
log = logging.getLogger("zoetrope.media")

MAX_REASON_CHARS = 1_000  # of a worker's message


@dataclass(eq=False)
class Request:
    """A step that waits for a thread."""

    run: Callable[[], Any]
    small: bool
    future: Future[Any]

    def work(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.run())
            except BaseException as error:
                self.future.set_exception(error)


class WorkerPool:
    """As many workers as threads; they start when they are first needed."""

    def __init__(
        self, workers: int, memory_bytes: int, hard_memory_bytes: int, seconds: float, *, unsafe: bool = False
    ) -> None:
        """
        Args:
            memory_bytes: of address space for a request that does not ask for more.
            hard_memory_bytes: what no request can exceed.
            seconds: for one request, of wall time and of processor time.
            unsafe: whatever the confinement of workers lacks here.
        """
        self._memory = memory_bytes
        self._hard_memory = hard_memory_bytes
        self._seconds = seconds
        self._unsafe = unsafe
        # A worker stays with its thread: the kernel ends it together with the thread that started it.
        self._threads = [
            threading.Thread(
                target=self._serve, args=(number == 0 and workers > 1,), name=f"sandbox-{number}", daemon=True
            )
            for number in range(workers)
        ]
        self._local = threading.local()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._requests = Shares[Request]()
        self._alive: set[Worker] = set()
        self._closed = False
        self.layers: list[Layer] = []

    def submit(self, step: Callable[..., T], *arguments: Any, tenant: str = "", small: bool = False) -> Future[T]:
        """Have ``step(pool, *arguments)`` run on a thread, where it may `ask`.

        Args:
            tenant: whose turn it takes.
            small: it takes little time; where there are several workers, one has time for nothing else.

        Raises:
            RuntimeError: the pool is closed.
        """
        future = Future[T]()
        with self._lock:
            if self._closed:
                raise RuntimeError("media workers were closed")
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()
            self._requests.put(tenant, Request(lambda: step(self, *arguments), small, future))
            self._changed.notify_all()
        return future

    def ask(
        self,
        operation: str,
        path: Path,
        name: str,
        *,
        to: int | None = None,
        file_bytes: int = 0,
        more_memory: int = 0,
        patience: int = 1,
        most_seconds: float = math.inf,
        **options: Any,
    ) -> dict[str, Any]:
        """Have the worker of this thread look at a file.

        Args:
            name: what messages call the file; the worker knows no other.
            to: a descriptor of the file that takes the result. file_bytes: that may be written to it.
            patience: times the usual seconds, but not more than most_seconds.

        Raises:
            MediaError: the file cannot be read, or the worker refuses it, or does not survive it, or takes too long
                (TookTooLong) or too much memory.
            OSError: workers do not start, are killed, or cannot write their results.
        """
        worker = self._worker()
        memory, seconds = self._memory + more_memory, min(self._seconds * patience, most_seconds)
        limits = {"memory_bytes": memory, "seconds": seconds, "file_bytes": file_bytes}
        request = {"operation": operation, "name": name[:MAX_REASON_CHARS], "options": options, "limits": limits}
        source = _open(path, name)
        try:
            answer = worker.ask(request, [source] if to is None else [source, to], seconds)
        except RequestDied as error:
            log.warning("a media worker ended: %s", error)
            if error.args[0] == "time":
                raise TookTooLong(f"{name} took longer than {seconds:g} s to examine") from None
            if error.args[0] == "SIGKILL":
                raise RequestKilled(f"the process that looked at {name} was killed") from None
            raise MediaError(f"{name} cannot be read: its decoder crashed ({error})") from None
        finally:
            os.close(source)
        # Of a worker that was taken over, this may be anything.
        match answer:
            case {"result": dict(result)}:
                return result
            case {"refused": str(reason)}:
                raise MediaError(_line(reason))
            case {"failed": "write", "errno": int(code)} if code in errno.errorcode:
                raise OSError(code, f"what was decoded cannot be written: {os.strerror(code)}")
            case {"failed": "memory"}:
                raise MediaError(f"{name} took more than {memory >> 20} MiB of memory to examine")
            case {"failed": str(reason)}:
                log.warning("a media worker failed with %s", _line(reason))
        raise MediaError(f"{name} cannot be read: it is damaged in a way that its decoder does not expect")

    def close(self) -> None:
        """End the workers; requests in progress fail."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
            for request in self._requests:
                request.future.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for worker in self._alive:
            worker.close()

    def _serve(self, small_alone: bool) -> None:
        """Take requests until the pool is closed: what a thread does."""
        while True:
            with self._lock:
                while (found := self._requests.take(lambda request: request.small or not small_alone)) is None:
                    if self._closed:
                        return
                    self._changed.wait()
            tenant, request = found
            started = time.monotonic()
            request.work()
            del request, found
            with self._lock:
                self._requests.done(tenant, time.monotonic() - started)

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is not None and worker.alive:
            return worker
        self._local.worker = None
        if worker is not None:
            worker.close()
            with self._lock:
                self._alive.discard(worker)
        fresh = Worker(self._hard_memory, unsafe=self._unsafe)
        absent = [str(layer) for layer in fresh.layers if not layer.holds]
        if absent and not self.layers:
            log.warning("media workers go without: %s", ", ".join(absent))
        self.layers = fresh.layers
        with self._lock:
            self._alive.add(fresh)
            if self._closed:
                fresh.kill()
        self._local.worker = fresh
        return fresh


def _line(text: str) -> str:
    """Make one line of a text, which can be shown anywhere."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:MAX_REASON_CHARS]


def _open(path: Path, name: str) -> int:
    """Open a regular file for reading; a descriptor.

    Raises:
        MediaError: there is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a pipe nobody waits for the end
    except OSError as error:
        raise MediaError(f"cannot read {name}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MediaError(f"cannot read {name}: not a regular file")
    return descriptor
