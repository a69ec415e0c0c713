"""How much memory decoding may take on a device, shared by the streams of one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zoetrope.model.codecs.decode_plan import CPU_LIMIT


class DeviceMemory:
    """The memory of one device that is left beside the networks of this process and whatever other processes hold."""

    def __init__(self, device: torch.device) -> None:
        """Count what this process has allocated so far as its networks."""
        self._device = device
        self._networks = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        self._taken = 0
        self._streams = 0
        self._changed = threading.Condition()

    @property
    def streams(self) -> int:
        """Return the number of open streams."""
        return self._streams

    def available(self) -> int:
        """Return the bytes that streams may take, also those that open ones have taken. On a CPU it is a constant."""
        if self._device.type != "cuda":
            return CPU_LIMIT
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device) - self._networks

    @contextmanager
    def stream(self, size: int) -> Iterator[None]:
        """Take ``size`` bytes while a stream is open; waits while they do not fit beside those of other streams."""
        with self._changed:
            while self._taken and self._taken + size > self.available():
                self._changed.wait()
            self._taken += size
            self._streams += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._streams -= 1
                idle = not self._streams
                self._changed.notify_all()
            if idle and size and self._device.type == "cuda":
                torch.cuda.empty_cache()  # other processes share the device
