"""Copies of slabs from the host to the device that run beside the computation."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, Protocol

import torch

POLL_SECONDS = 0.001


class SlabCopies(Protocol):
    """How slabs reach a device. Copies run one after the other, in the order in which they were started."""

    def mark(self) -> Any:
        """Mark the point that the computation has reached in its queue."""

    def copy(self, host: torch.Tensor, slab: torch.Tensor, after: Any) -> Any:
        """Start to copy ``host`` over the beginning of ``slab`` once the computation has passed the mark ``after``
        (None: at once). Returns a mark of its end. The host does not wait."""

    def wait(self, copied: Any) -> None:
        """Have all computation from now on wait for a copy."""

    def drain(self, seconds: float) -> bool:
        """Wait until no copy is running or due, at most so long. Returns whether that is so."""


class CudaSlabCopies:
    """Copies on a stream of their own; events keep them in order with the computation, the host never waits."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._last: torch.cuda.Event | None = None

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record()
        return event

    def copy(self, host: torch.Tensor, slab: torch.Tensor, after: Any) -> torch.cuda.Event:
        copied = torch.cuda.Event()
        if after is not None:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            slab[: len(host)].copy_(host, non_blocking=True)
            copied.record(self._stream)
        self._last = copied
        return copied

    def wait(self, copied: Any) -> None:
        torch.cuda.current_stream().wait_event(copied)

    def drain(self, seconds: float) -> bool:
        """A copy may be due after work that waits for a lost rank: this does not wait for that."""
        until = time.monotonic() + seconds
        while self._last is not None and not self._last.query():
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS)
        return True


class ThreadSlabCopies:
    """Copies by a thread, on a machine without a GPU: what the host has computed is done, so marks say nothing."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "slabs")
        self._running: Future[None] | None = None

    def mark(self) -> None:
        return None

    def copy(self, host: torch.Tensor, slab: torch.Tensor, after: Any) -> Future[None]:
        self._running = self._thread.submit(_copy, host, slab)
        return self._running

    def wait(self, copied: Any) -> None:
        copied.result()

    def drain(self, seconds: float) -> bool:
        return self._running is None or not wait_for([self._running], seconds).not_done


def copies_for(device: torch.device) -> SlabCopies:
    """Return the copies of a kind of device."""
    return CudaSlabCopies(device) if device.type == "cuda" else ThreadSlabCopies()


def _copy(host: torch.Tensor, slab: torch.Tensor) -> None:
    slab[: len(host)].copy_(host)
