"""The layers of one device's networks, some of them on the device, the others streamed to it in turn.

Two slabs on the device take turns: while one layer computes, the next is copied into the other slab. The order of the
layers never changes, so after the last one of a pass the first one of the next is copied, over steps and over
requests. Of two noise experts both are in one store: whichever a step needs is streamed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoetrope.model.streaming.copies import SlabCopies
from zoetrope.model.streaming.host import GIB, HostMemory
from zoetrope.model.streaming.slab import SlabLayout

DRAIN_SECONDS = 5.0  # how long a failed pass waits for copies that are running
log = logging.getLogger("zoetrope.model")


@dataclass
class _Unit:
    """A streamed layer: its place among those of its network, and where its bytes are."""

    network: int
    place: int
    layer: nn.Module
    layout: SlabLayout
    host: torch.Tensor

    @property
    def turn(self) -> int:
        """The slab that it goes to, always the same, so that its parameters never move."""
        return self.place % 2


@dataclass
class _Slab:
    """A slab of the device. ``holds``: what was last copied to it, or is being copied; None: nothing of worth.
    ``arrived``: the end of that copy. ``left``: where the computation was when it was last done with the slab."""

    memory: torch.Tensor
    holds: _Unit | None = None
    arrived: Any = None
    left: Any = None


class BlockStore:
    """See `model.network.arrivals.Arrivals`.

    To load: `begin` each network, `take` each of its streamed layers once it is complete, then `open`. Not for several
    threads.

    Attributes:
        copies_started: since it was opened.
    """

    def __init__(self, device: torch.device, copies: SlabCopies, host: HostMemory, *, wraps: bool = True) -> None:
        """``wraps``: passes follow each other, so the last layer of one is followed by the first of the next."""
        self._device, self._copies, self._host, self._wraps = device, copies, host, wraps
        self._units: dict[nn.Module, _Unit] = {}
        self._layers: list[tuple[nn.Module, ...]] = []  # to be streamed, of each network
        self._order: list[list[_Unit]] = []
        self._slabs: list[_Slab] = []
        self._latest = 0  # the network of the current pass
        self._follows: dict[int, int] = {}  # after a pass of a network, that of which one came
        self.copies_started = 0

    def begin(self, layers: Sequence[nn.Module]) -> None:
        """Start another network, whose streamed layers these are, in the order of a pass.

        Raises:
            ValueError: they are an odd number: the last of one pass and the first of the next would share a slab.
        """
        if len(layers) % 2:
            raise ValueError(f"{len(layers)} layers to stream: it must be an even number")
        self._layers.append(tuple(layers))

    def take(self, layer: nn.Module) -> None:
        """Move a layer's tensors to host memory, once all of them are complete.

        Raises:
            ModelError: there is not enough host memory.
        """
        network, place = next(
            (number, layers.index(layer)) for number, layers in enumerate(self._layers) if layer in layers
        )
        layout = SlabLayout.of(layer)
        unit = _Unit(network, place, layer, layout, self._host.take(layout.size))
        layout.fill(unit.host)
        self._units[layer] = unit

    def open(self) -> None:
        """Allocate the slabs, have all streamed layers read from them, and start to copy the first. Once for a network
        in service; after `close` again."""
        self._order = [[self._units[layer] for layer in layers] for layers in self._layers]
        for turn in range(2):
            sizes = [unit.layout.size for unit in self._units.values() if unit.turn == turn]
            if sizes:
                with torch.inference_mode(False):
                    self._slabs.append(_Slab(torch.empty(max(sizes), dtype=torch.uint8, device=self._device)))
        for unit in self._units.values():
            unit.layout.point(self._slabs[unit.turn].memory)
        if self._units:
            # What made the slabs, and on the device what used their memory before, comes first.
            self._slabs[0].left = self._slabs[1].left = self._copies.mark()
            self._send(next(order for order in self._order if order)[0])

    def close(self) -> None:
        """Free the slabs; all layers are in host memory."""
        if not self._copies.drain(DRAIN_SECONDS):
            log.warning("copies of weights did not end within %g s", DRAIN_SECONDS)
        for unit in self._units.values():
            unit.layout.point(unit.host)
        self._slabs = []
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # other processes share the device

    @property
    def streamed(self) -> int:
        """Return the number of streamed layers of all networks."""
        return len(self._units)

    @property
    def slab_bytes(self) -> int:
        return sum(slab.memory.nbytes for slab in self._slabs)

    @property
    def host_bytes(self) -> int:
        """Return the bytes of the streamed layers in host memory."""
        return self._host.taken

    def described(self) -> str:
        """Say what is streamed, for a log."""
        return (
            f"{self.streamed} layers are streamed from {self.host_bytes / GIB:.2f} GiB of host memory, through "
            f"{self.slab_bytes / GIB:.2f} GiB of the device"
        )

    @contextmanager
    def of(self, layer: nn.Module) -> Iterator[None]:
        """See `model.network.arrivals.Arrivals.of`. After a failure inside, all that was copied counts as lost, and the
        next pass copies it anew."""
        unit = self._units.get(layer)
        try:
            if unit is not None:
                self._arrive(unit)
            yield
        except BaseException:
            self._abandon()
            raise
        if unit is not None:
            self._slabs[unit.turn].left = self._copies.mark()

    def _arrive(self, unit: _Unit) -> None:
        """Have the computation wait for a layer, and start to copy the one after it."""
        if unit.place == 0:
            self._follows[self._latest] = unit.network
            self._latest = unit.network
        self._send(unit)  # already on its way, but for the first pass of another network or after a failure
        self._copies.wait(self._slabs[unit.turn].arrived)
        if (following := self._after(unit)) is not None:
            self._send(following)

    def _after(self, unit: _Unit) -> _Unit | None:
        """Return what is needed next: after the last layer, the first of the network that came next last time."""
        order = self._order[unit.network]
        if unit.place + 1 < len(order):
            return order[unit.place + 1]
        if not self._wraps:
            return None
        return self._order[self._follows.get(unit.network, unit.network)][0]

    def _send(self, unit: _Unit) -> None:
        """Start to copy a layer to its slab once that is free, unless it is there or on its way."""
        slab = self._slabs[unit.turn]
        if slab.holds is unit:
            return
        slab.holds = None  # if the copy cannot start
        slab.arrived = self._copies.copy(unit.host, slab.memory, slab.left)
        slab.holds = unit
        self.copies_started += 1

    def _abandon(self) -> None:
        """Leave the store as if nothing had been copied."""
        try:
            drained = self._copies.drain(DRAIN_SECONDS)
            for slab in self._slabs:
                slab.left = self._copies.mark()
        except Exception as error:  # the device is lost; what is raised already says so
            log.warning("copies of weights could not be ended: %s", type(error).__name__)
        else:
            if not drained:
                log.warning("copies of weights did not end within %g s of a failure", DRAIN_SECONDS)
        for slab in self._slabs:
            slab.holds = None
