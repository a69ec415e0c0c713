"""Keep the caches of a frame's tiles between latent frames: on the device, or in page-locked host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


class TileCaches(Protocol):
    """The caches of the tiles of one clip that one device decodes, in order."""

    def take(self, tile: int, following: int | None) -> list[Any]:
        """Return a tile's caches on the device, for `ChunkDecoder.decode`; ``following``: the tile that is taken next,
        None after the last one of a clip."""

    def put(self, tile: int, caches: list[Any]) -> None:
        """Keep the caches that decoding has left. Not called after a clip's last latent frame."""


class DeviceCaches:
    """Leaves them where they are."""

    def __init__(self, empty: Sequence[list[Any]]) -> None:
        self._caches = list(empty)

    def take(self, tile: int, following: int | None) -> list[Any]:
        return self._caches[tile]

    def put(self, tile: int, caches: list[Any]) -> None:
        self._caches[tile] = caches


class Copies(Protocol):
    """Copies between the host and a device, beside the device's work. Events order them; no call waits on the host."""

    def host(self, size: int) -> torch.Tensor:
        """Return ``size`` bytes of host memory."""

    def device(self, size: int) -> torch.Tensor:
        """Return ``size`` bytes of the device."""

    def mark(self) -> Any:
        """Return an event: the device's work so far is done."""

    def wait(self, event: Any) -> None:
        """Let the device's later work wait for an event."""

    def load(self, to: torch.Tensor, source: torch.Tensor, after: Sequence[Any]) -> Any:
        """Copy to the device once all of ``after`` have happened; return the event of its end."""

    def store(self, to: torch.Tensor, source: torch.Tensor, after: Sequence[Any]) -> Any:
        """Copy to the host; as `load`."""


class CudaCopies:
    """Two streams beside the current one, so that both directions of the bus are used at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def host(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def device(self, size: int) -> torch.Tensor:
        buffer = torch.empty(size, dtype=torch.uint8, device=self._device)
        for stream in (self._up, self._down):
            buffer.record_stream(stream)  # so that it is not reused before copies end if a clip is abandoned
        return buffer

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self, event: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self._device).wait_event(event)

    def load(self, to: torch.Tensor, source: torch.Tensor, after: Sequence[torch.cuda.Event]) -> torch.cuda.Event:
        return self._copy(self._up, to, source, after)

    def store(self, to: torch.Tensor, source: torch.Tensor, after: Sequence[torch.cuda.Event]) -> torch.cuda.Event:
        return self._copy(self._down, to, source, after)

    def _copy(
        self, stream: torch.cuda.Stream, to: torch.Tensor, source: torch.Tensor, after: Sequence[torch.cuda.Event]
    ) -> torch.cuda.Event:
        for event in after:
            stream.wait_event(event)
        with torch.cuda.stream(stream):
            to.copy_(source, non_blocking=True)
        done = torch.cuda.Event()
        done.record(stream)
        return done


@dataclass
class _Buffer:
    """Device memory for one tile's caches; ``busy``: events after which it can be overwritten."""

    memory: torch.Tensor
    busy: list[Any] = field(default_factory=list)


class HostCaches:
    """Keeps them in page-locked host memory.

    The device has two buffers, each of the caches of one tile: while a tile is decoded from one, the other gives the
    tile before it to the host and takes the tile after it. The caches of a tile travel as one block.
    """

    def __init__(self, empty: Sequence[list[Any]], tile_bytes: int, copies: Copies) -> None:
        """
        Args:
            empty: caches of tiles that have none yet. tile_bytes: at most, of one tile's caches.
        """
        self._copies = copies
        self._layouts: list[list[Any]] = list(empty)  # tensors are replaced by their `_Place` in the block
        self._blocks = [copies.host(tile_bytes) for _ in empty]
        self._stored: list[list[Any]] = [[] for _ in empty]
        self._buffers = (_Buffer(copies.device(tile_bytes)), _Buffer(copies.device(tile_bytes)))
        self._loads: dict[int, tuple[int, list[Any]]] = {}  # tile -> number of its buffer, events
        self._current = 0

    def take(self, tile: int, following: int | None) -> list[Any]:
        if tile not in self._loads:
            self._load(tile, 1 - self._current)
        self._current, events = self._loads.pop(tile)
        for event in events:
            self._copies.wait(event)
        if following is not None and following != tile:
            self._load(following, 1 - self._current)
        memory = self._buffers[self._current].memory
        return [entry.of(memory) if isinstance(entry, _Place) else entry for entry in self._layouts[tile]]

    def put(self, tile: int, caches: list[Any]) -> None:
        buffer, size, layout = self._buffers[self._current], 0, []
        for cache in caches:
            if isinstance(cache, torch.Tensor):
                place = _Place(size, cache.nbytes, cache.dtype, cache.shape, cache.stride())
                place.of(buffer.memory).copy_(cache)
                size += cache.nbytes
                layout.append(place)
            else:
                layout.append(cache)
        self._layouts[tile] = layout
        done = self._copies.store(self._blocks[tile][:size], buffer.memory[:size], [self._copies.mark()])
        self._stored[tile] = buffer.busy = [done]

    def _load(self, tile: int, number: int) -> None:
        """Give a tile a buffer, and fill it with what was stored of the tile."""
        buffer, size = self._buffers[number], sum(p.size for p in self._layouts[tile] if isinstance(p, _Place))
        events = buffer.busy
        if size:
            after = [self._copies.mark(), *buffer.busy, *self._stored[tile]]  # the tile before it has used the buffer
            events = [self._copies.load(buffer.memory[:size], self._blocks[tile][:size], after)]
        self._loads[tile] = number, events


@dataclass(frozen=True)
class _Place:
    """Where a block of bytes has a tensor."""

    start: int
    size: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]

    def of(self, block: torch.Tensor) -> torch.Tensor:
        return block[self.start : self.start + self.size].view(self.dtype).as_strided(self.shape, self.stride)
