"""A pool of worker processes, each owned by a thread and replaced if it dies or hangs. Tenants take turns, and one of
several workers is reserved for small files."""

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

from zoetrope.serving.jobs.tenant_turns import TenantTurns
from zoetrope.serving.media.errors import MediaError, TookTooLong
from zoetrope.serving.media.sandbox.confine import Layer
from zoetrope.serving.media.sandbox.worker_process import MediaWorker, RequestDied, RequestKilled

T = TypeVar("T")
log = logging.getLogger("zoetrope.media")

MAX_REASON_CHARS = 1_000  # of a worker's message


@dataclass(eq=False)
class Request:
    """A function call that waits for a thread."""

    run: Callable[[], Any]
    small: bool
    future: Future[Any]

    def work(self) -> None:
        """Run the call and set the future."""
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.run())
            except BaseException as error:
                self.future.set_exception(error)


class WorkerPool:
    """As many workers as threads; both start when they are first needed."""

    def __init__(
        self, workers: int, memory_bytes: int, hard_memory_bytes: int, seconds: float, *, unsafe: bool = False
    ) -> None:
        """Set the limits.

        Args:
            memory_bytes: address space of a request, unless it asks for more.
            hard_memory_bytes: the maximum of any request.
            seconds: wall time and processor time of a request, unless it asks for more.
            unsafe: start workers even if confinement layers are missing.
        """
        self._memory = memory_bytes
        self._hard_memory = hard_memory_bytes
        self._seconds = seconds
        self._unsafe = unsafe
        # A worker belongs to one thread: the kernel kills it together with the thread that started it.
        self._threads = [
            threading.Thread(
                target=self._serve, args=(number == 0 and workers > 1,), name=f"sandbox-{number}", daemon=True
            )
            for number in range(workers)
        ]
        self._local = threading.local()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._requests = TenantTurns[Request]()
        self._alive: set[MediaWorker] = set()
        self._closed = False
        self.layers: list[Layer] = []

    def submit(self, step: Callable[..., T], *arguments: Any, tenant: str = "", small: bool = False) -> Future[T]:
        """Run ``step(pool, *arguments)`` on a thread, where it may call `ask`.

        Args:
            tenant: whose turn it uses.
            small: it takes little time; one of several workers accepts only small steps.

        Raises:
            RuntimeError: the pool is closed.
        """
        future = Future[T]()
        with self._lock:
            if self._closed:
                raise RuntimeError("the media workers are closed")
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
        """Run an operation on a file in this thread's worker.

        Args:
            name: what messages call the file; the worker knows no other name.
            to: descriptor of the file for the result.
            file_bytes: maximum size of the result.
            more_memory: address space beyond the usual, in bytes.
            patience: factor on the usual time limit.
            most_seconds: upper bound of the time limit.

        Raises:
            MediaError: the file cannot be read, is refused, crashes the decoder, or takes too long (TookTooLong) or too
                much memory.
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
            log.warning("a media request died: %s", error)
            if error.args[0] == "time":
                raise TookTooLong(f"{name} took longer than {seconds:g} s to examine") from None
            if error.args[0] == "SIGKILL":
                raise RequestKilled(f"the process that examined {name} was killed") from None
            raise MediaError(f"{name} cannot be read: its decoder crashed ({error})") from None
        finally:
            os.close(source)
        # A compromised worker may answer anything.
        match answer:
            case {"result": dict(result)}:
                return result
            case {"refused": str(reason)}:
                raise MediaError(_line(reason))
            case {"failed": "write", "errno": int(code)} if code in errno.errorcode:
                raise OSError(code, f"cannot write the decoded data: {os.strerror(code)}")
            case {"failed": "memory"}:
                raise MediaError(f"{name} took more than {memory >> 20} MiB of memory to examine")
            case {"failed": str(reason)}:
                log.warning("a media worker failed with %s", _line(reason))
        raise MediaError(f"{name} cannot be read: its decoder failed unexpectedly, the file is probably damaged")

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

    def _serve(self, small_only: bool) -> None:
        """Handle requests until the pool is closed; the body of each thread."""
        while True:
            with self._lock:
                while (found := self._requests.get(lambda request: request.small or not small_only)) is None:
                    if self._closed:
                        return
                    self._changed.wait()
            tenant, request = found
            started = time.monotonic()
            request.work()
            del request, found
            with self._lock:
                self._requests.done(tenant, time.monotonic() - started)

    def _worker(self) -> MediaWorker:
        worker: MediaWorker | None = getattr(self._local, "worker", None)
        if worker is not None and worker.alive:
            return worker
        self._local.worker = None
        if worker is not None:
            worker.close()
            with self._lock:
                self._alive.discard(worker)
        fresh = MediaWorker(self._hard_memory, unsafe=self._unsafe)
        absent = [str(layer) for layer in fresh.layers if not layer.holds]
        if absent and not self.layers:
            log.warning("media workers run without: %s", ", ".join(absent))
        self.layers = fresh.layers
        with self._lock:
            self._alive.add(fresh)
            if self._closed:
                fresh.kill()
        self._local.worker = fresh
        return fresh


def _line(text: str) -> str:
    """Return a text as one printable line."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:MAX_REASON_CHARS]


def _open(path: Path, name: str) -> int:
    """Open a regular file for reading; returns the descriptor.

    Raises:
        MediaError: it does not exist, cannot be opened, or is not a regular file.
    """
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        )  # O_NONBLOCK: opening a pipe must not wait for its other end
    except OSError as error:
        raise MediaError(f"cannot read {name}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MediaError(f"cannot read {name}: not a regular file")
    return descriptor
