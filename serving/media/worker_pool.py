"""Worker processes behind threads: one each, replaced when it dies or hangs."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from serving.media.confine import Layer
from serving.media.errors import MediaError
from serving.media.worker_process import RequestDied, Worker

T = TypeVar("T")
log = logging.getLogger("zoetrope.media")

MAX_REASON_CHARS = 1_000  # of a worker's message


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
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._alive: set[Worker] = set()
        self._closed = False
        self.layers: list[Layer] = []

    def submit(self, step: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have ``step(pool, *arguments)`` run on a thread, where it may `ask`."""
        return self._threads.submit(step, self, *arguments)

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
        **options: Any,
    ) -> dict[str, Any]:
        """Have the worker of this thread look at a file.

        Args:
            name: what messages call the file; the worker knows no other.
            to: a descriptor of the file that takes the result. file_bytes: that may be written to it.
            patience: times the usual seconds.

        Raises:
            MediaError: the file cannot be read, or the worker refuses it, or does not survive it, or takes too long or
                too much memory.
            OSError: workers do not start, or cannot write their results.
        """
        worker = self._worker()
        memory, seconds = self._memory + more_memory, self._seconds * patience
        limits = {"memory_bytes": memory, "seconds": seconds, "file_bytes": file_bytes}
        request = {"operation": operation, "name": name[:MAX_REASON_CHARS], "options": options, "limits": limits}
        source = _open(path, name)
        try:
            answer = worker.ask(request, [source] if to is None else [source, to], seconds)
        except RequestDied as error:
            log.warning("a media worker ended: %s", error)
            if error.args[0] == "time":
                raise MediaError(f"{name} took longer than {seconds:g} s to examine") from None
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
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._alive:
            worker.close()

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
