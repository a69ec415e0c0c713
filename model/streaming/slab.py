"""A layer's tensors end to end in one buffer, so that one copy moves them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

ALIGNMENT = 256  # bytes: of every tensor in a slab; kernels may load 16 at a time, and copies start at whole lines


@dataclass(frozen=True)
class SlabPlace:
    """Where one tensor of a layer is in its slab.

    Attributes:
        holders: the modules that have it, each with its name for it, and whether as a parameter. offset: in bytes.
    """

    holders: tuple[tuple[nn.Module, str, bool], ...]
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    size: int

    def of(self, slab: torch.Tensor) -> torch.Tensor:
        """Return the tensor as a view of a slab ``[bytes]`` uint8."""
        flat = slab[self.offset : self.offset + self.size].view(self.dtype)
        return flat.as_strided(self.shape, self.strides, flat.storage_offset())

    def point(self, slab: torch.Tensor) -> None:
        """Have the modules hold the view of a slab from now on."""
        value = self.of(slab)
        parameter = nn.Parameter(value, requires_grad=False)
        for module, name, is_parameter in self.holders:
            if is_parameter:
                module._parameters[name] = parameter
            else:
                module._buffers[name] = value


@dataclass(frozen=True)
class SlabLayout:
    """All tensors of a layer, buffers and 8-bit weights with their scales included. ``size``: bytes of the slab."""

    places: tuple[SlabPlace, ...]
    size: int

    @classmethod
    def of(cls, layer: nn.Module) -> SlabLayout:
        """Lay out the tensors that a layer holds now."""
        places: list[SlabPlace] = []
        offset = 0
        for tensor, holders in _tensors(layer):
            strides = tensor.stride() if _is_dense(tensor) else _contiguous(tensor.shape)
            places.append(SlabPlace(tuple(holders), tensor.shape, strides, tensor.dtype, offset, tensor.nbytes))
            offset += aligned(tensor.nbytes)
        return cls(tuple(places), offset)

    def fill(self, slab: torch.Tensor) -> None:
        """Copy the layer's tensors into a slab of the host, and have the layer hold those."""
        for place in self.places:
            module, name, is_parameter = place.holders[0]
            held = (module._parameters if is_parameter else module._buffers)[name]
            assert held is not None
            place.of(slab).copy_(held.detach())
            place.point(slab)

    def point(self, slab: torch.Tensor) -> None:
        """Have the layer hold what a slab contains, whatever that is."""
        for place in self.places:
            place.point(slab)


def aligned(size: int) -> int:
    """Round bytes up to the alignment of a slab's tensors."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _tensors(layer: nn.Module) -> Iterator[tuple[torch.Tensor, list[tuple[nn.Module, str, bool]]]]:
    """Yield each tensor once, with all that hold it."""
    found: dict[int, tuple[torch.Tensor, list[tuple[nn.Module, str, bool]]]] = {}
    for module in layer.modules():
        for held, is_parameter in ((module._parameters, True), (module._buffers, False)):
            for name, tensor in held.items():
                if tensor is not None:
                    found.setdefault(id(tensor), (tensor, []))[1].append((module, name, is_parameter))
    yield from found.values()


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor's values fill its memory without gaps or overlaps, in whichever order."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length > 1:
            if stride != expected:
                return False
            expected *= length
    return True


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.insert(0, step)
        step *= max(1, length)
    return tuple(strides)
