"""Writes snapshots in the background: the step waits for a copy of the tensors, a thread does the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch

from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.snapshots.format import Snapshot
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.cluster.telemetry.metrics import SNAPSHOT_SECONDS, SNAPSHOTS

log = logging.getLogger("zoetrope.snapshots")

REMEMBERED = 32  # failures


@dataclass(frozen=True)
class WriteFailure:
    """A snapshot that could not be written. The segment continues; older snapshots must do."""

    owner: Owner
    step: int
    reason: str


@dataclass(frozen=True)
class _Copy:
    snapshot: Snapshot
    wait: Callable[[], None]  # until the tensors have arrived


class SnapshotWriter:
    """One thread that writes one snapshot at a time.

    At most one snapshot of each segment waits: a newer one replaces an older one, so that memory is bounded by one
    snapshot of every segment plus the one being written, however slow the store is. Methods may be called from any
    thread.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._queue: OrderedDict[tuple[str, int], _Copy] = OrderedDict()
        self._writing: tuple[str, int] | None = None
        self._lost: set[tuple[str, int]] = set()  # segments whose last snapshot failed
        self._closed = False
        self._failures: deque[WriteFailure] = deque(maxlen=REMEMBERED)
        self._written = 0
        self._failed = 0
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Return how many were written."""
        return self._written

    @property
    def failed(self) -> int:
        """Return how many could not be written."""
        return self._failed

    @property
    def failures(self) -> tuple[WriteFailure, ...]:
        """Return the latest failures, oldest first."""
        with self._changed:
            return tuple(self._failures)

    def enqueue(self, snapshot: Snapshot) -> float:
        """Copy the tensors and leave the rest to the thread; the segment may continue at once. Raises nothing: see
        `failures`. After `close` it does nothing.

        Returns:
            Seconds that the caller had to wait.
        """
        started = time.perf_counter()
        try:
            copy = self._copy(snapshot)
        except Exception as error:  # such as no host memory left
            self._fail(snapshot, error)
        else:
            with self._changed:
                if not self._closed:
                    self._lost.discard((snapshot.owner.job, snapshot.owner.index))
                    self._queue[snapshot.owner.job, snapshot.owner.index] = copy
                    self._changed.notify_all()
        return time.perf_counter() - started

    def drop(self, job: str) -> None:
        """Forget what waits for a job that is over; a write in progress continues."""
        with self._changed:
            for key in [key for key in self._queue if key[0] == job]:
                del self._queue[key]
            self._lost = {key for key in self._lost if key[0] != job}
            self._changed.notify_all()

    def flush(self, timeout: float, owners: Collection[Owner] | None = None) -> bool:
        """Wait until nothing (of these segments) is left to write.

        Returns:
            Whether the last one of each was written; False also if the time runs out.
        """
        keys = None if owners is None else {(owner.job, owner.index) for owner in owners}

        def idle() -> bool:
            busy = {*self._queue, *([self._writing] if self._writing is not None else [])}
            return not (busy if keys is None else busy & keys)

        with self._changed:
            done = self._changed.wait_for(idle, timeout)
            return done and not (self._lost if keys is None else self._lost & keys)

    def lost(self, owner: Owner) -> bool:
        """Return whether the segment's last snapshot could not be written."""
        with self._changed:
            return (owner.job, owner.index) in self._lost

    def close(self, timeout: float = 30.0) -> bool:
        """Flush, then stop; what is not written by then is lost.

        Returns:
            Whether everything was written.
        """
        started = time.monotonic()
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(max(0.0, started + timeout - time.monotonic()))
        return done

    def _copy(self, snapshot: Snapshot) -> _Copy:
        """Copy the tensors. On a GPU the copies run on a stream of their own, after what is queued and beside what
        follows."""
        tensors = snapshot.state.tensors()
        device = snapshot.state.latents.device
        with torch.no_grad():
            if device.type != "cuda":
                copies, wait = {name: tensor.detach().clone() for name, tensor in tensors.items()}, _nothing
            else:
                if device not in self._streams:
                    self._streams[device] = torch.cuda.Stream(device)
                stream = self._streams[device]
                stream.wait_stream(torch.cuda.current_stream(device))
                copies = {}
                with torch.cuda.stream(stream):
                    for name, tensor in tensors.items():
                        copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                        copies[name].copy_(tensor, non_blocking=True)
                        if tensor.is_cuda:  # the state of a generator is not
                            tensor.record_stream(stream)  # or its memory could be reused before it is read
                    event = torch.cuda.Event()
                    event.record(stream)
                wait = event.synchronize
        return _Copy(replace(snapshot, state=snapshot.state.with_tensors(copies)), wait)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                self._writing, copy = self._queue.popitem(last=False)
            try:
                copy.wait()
                started = time.perf_counter()
                self._store.put(copy.snapshot)
                SNAPSHOTS.labels("written").inc()
                SNAPSHOT_SECONDS.observe(time.perf_counter() - started)
                with self._changed:
                    self._written += 1
            except Exception as error:
                self._fail(copy.snapshot, error)
            finally:
                del copy
                with self._changed:
                    self._writing = None
                    self._changed.notify_all()

    def _fail(self, snapshot: Snapshot, error: Exception) -> None:
        owner, reason = snapshot.owner, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        log.warning(
            "no snapshot of segment %d of job %s after step %d: %s", owner.index, owner.job, snapshot.step, reason
        )
        SNAPSHOTS.labels("failed").inc()
        with self._changed:
            self._failures.append(WriteFailure(owner, snapshot.step, reason))
            self._failed += 1
            if (owner.job, owner.index) not in self._queue:
                self._lost.add((owner.job, owner.index))


def _nothing() -> None:
    """Tensors on the CPU are there at once."""
