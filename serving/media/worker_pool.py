"""Worker processes behind threads: one each, replaced when it dies, hangs or has worked for long."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from serving.media.errors import MediaError
from serving.media.worker_process import Worker, WorkerGone

T = TypeVar("T")
log = logging.getLogger("zoetrope.media")

REQUESTS_PER_WORKER = 500  # decoders may leak


class WorkerPool:
    """As many workers as threads; they start when they are first needed."""

    def __init__(self, workers: int, memory_bytes: int, hard_memory_bytes: int, seconds: float) -> None:
        """
        Args:
            memory_bytes: of address space for a request that does not ask for more.
            hard_memory_bytes: what no request can exceed.
            seconds: for one request, of wall time and of processor time.
        """
        self._memory = memory_bytes
        self._hard_memory = hard_memory_bytes
        self._seconds = seconds
        # A worker stays with its thread: the kernel ends it together with the thread that started it.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._alive: set[Worker] = set()
        self._closed = False
        self.missing: list[str] = []

    def submit(self, step: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have ``step(pool, *arguments)`` run on a thread, where it may `ask`."""
        return self._threads.submit(step, self, *arguments)

    def ask(
        self,
        operation: str,
        path: Path,
        name: str,
        *,
        file_bytes: int = 0,
        more_memory: int = 0,
        patience: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """What the worker of this thread says to a file.

        Args:
            name: what messages call the file; its path stays out of them.
            file_bytes: that the worker may write.
            patience: times the usual seconds.

        Raises:
            MediaError: it refuses the file, or does not survive it, or takes too long or too much memory.
            OSError: workers do not start, or cannot write their results.
        """
        worker = self._worker()
        location = str(path.absolute())
        memory, seconds = self._memory + more_memory, self._seconds * patience
        limits = {"memory_bytes": memory, "seconds": seconds, "file_bytes": file_bytes}
        request = {"operation": operation, "path": location, "options": options, "limits": limits}
        try:
            answer = worker.ask(request, seconds)
        except WorkerGone as error:
            log.warning("a media worker ended: %s", error)
            if error.args[0] == "time":
                raise MediaError(f"{name} took longer than {seconds:g} s to examine") from None
            raise MediaError(f"{name} cannot be read: its decoder crashed ({error})") from None
        if "result" in answer:
            result: dict[str, Any] = answer["result"]
            return result
        if "refused" in answer:
            raise MediaError(str(answer["refused"]).replace(location, name))
        if answer.get("failed") == "write":
            code = int(answer.get("errno") or errno.EIO)
            raise OSError(code, f"what was decoded cannot be written: {os.strerror(code)}")
        if answer.get("failed") == "memory":
            raise MediaError(f"{name} took more than {memory >> 20} MiB of memory to examine")
        log.warning("a media worker failed with %s", answer.get("failed"))
        raise MediaError(f"{name} cannot be read: it is damaged in a way that its decoder does not expect")

    def close(self) -> None:
        """End the workers; requests in progress fail."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is not None and worker.alive and worker.answered < REQUESTS_PER_WORKER:
            return worker
        self._local.worker = None
        if worker is not None:
            worker.kill()
            with self._lock:
                self._alive.discard(worker)
        try:
            fresh = Worker(self._hard_memory)
        except WorkerGone as error:
            raise OSError(errno.ECHILD, f"a media worker does not start: {error}") from None
        if fresh.missing and not self.missing:
            log.warning("media workers go without %s", ", ".join(fresh.missing))
        self.missing = fresh.missing
        with self._lock:
            self._alive.add(fresh)
            if self._closed:
                fresh.kill()
        self._local.worker = fresh
        return fresh
