"""When the weights of a network's layers are on the device: always, or in turn.

The network knows only this interface; `model.streaming` implements it for weights that do not fit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import nn


class Arrivals(Protocol):
    """What a network asks before it computes with a layer."""

    def of(self, layer: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the layer's weights can be read. A network enters it for each of its `layers`, in
        their order, and for nothing else within; outside, the values of a layer's weights mean nothing."""
        ...


class Resident:
    """The arrivals of a network all of whose weights stay on the device."""

    def of(self, layer: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()


RESIDENT = Resident()
