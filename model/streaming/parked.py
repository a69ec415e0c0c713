"""A module that is on its device only while it is in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from zoetrope.model.streaming.host import HostMemory
from zoetrope.model.streaming.slab import SlabLayout


class Parked:
    """A module whose tensors wait in host memory between uses. Thread-safe: users at the same time share one copy."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        """Take the tensors of a complete module off ``device``.

        Raises:
            ModelError: the host has too little memory.
        """
        self._device = device
        self._layout = SlabLayout.of(module)
        self._host = HostMemory(self._layout.size, pinned=device.type == "cuda").take(self._layout.size)
        self._layout.fill(self._host)
        self._users = 0
        self._changing = threading.Lock()

    @property
    def host_bytes(self) -> int:
        return self._layout.size

    @contextmanager
    def here(self) -> Iterator[None]:
        """Have the module on its device within the context."""
        with self._changing:
            if not self._users:
                with torch.inference_mode(False):
                    slab = torch.empty(self._layout.size, dtype=torch.uint8, device=self._device)
                    slab.copy_(self._host[: self._layout.size], non_blocking=True)
                self._layout.point(slab)
            self._users += 1
        try:
            yield
        finally:
            with self._changing:
                self._users -= 1
                if not self._users:
                    self._layout.point(self._host)
                    if self._device.type == "cuda":
                        torch.cuda.empty_cache()  # other processes share the device
