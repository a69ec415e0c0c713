"""Load networks some of whose layers are streamed: each goes to the host as soon as it is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from zoetrope.model.network.precision import dtype_of
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.quantized import QuantizedExperts
from zoetrope.model.streaming.choice import Split, split
from zoetrope.model.streaming.copies import SlabCopies, copies_for
from zoetrope.model.streaming.host import HostMemory, check_host
from zoetrope.model.streaming.slab import aligned
from zoetrope.model.streaming.store import BlockStore


@dataclass(frozen=True)
class WeightRoom:
    """How much of a device the weights of its networks may take.

    Attributes:
        bytes: of all weights of all networks together, two slabs included; less than the fewest: as few as possible.
        networks: that share it, alike: 2 for a pair of noise experts.
        sharers: ranks on this machine that hold as much in host memory each.
    """

    bytes: int
    networks: int = 1
    sharers: int = 1


class StreamedLoading:
    """Takes layers away while `model.checkpoints.weights.load_into` fills networks: about one streamed layer is on the
    device at a time, beside those that stay."""

    def __init__(
        self, room: WeightRoom, device: torch.device, copies: Callable[[torch.device], SlabCopies] = copies_for
    ) -> None:
        self._room, self._device, self._copies = room, device, copies
        self._networks: list[Network] = []
        self._store: BlockStore | None = None
        self.split: Split | None = None

    def begin(
        self, network: Network, names: Iterable[str], dtype: torch.dtype, ranks: int = 1
    ) -> Callable[[str], None]:
        """Start a network that is still on the meta device, in its final form.

        Args:
            names: of all tensors that will be placed. dtype: of the weights, but for those that stay in float32.
            ranks: over which the experts of its layers are spread.

        Returns:
            What to call with a tensor's name after it was placed.

        Raises:
            ModelError: host memory does not suffice; before anything is read.
        """
        layers = list(network.layers())
        if self._store is None:
            self.split = self._split(network, dtype, ranks)
            check_host(self.split.host_bytes, self._room.sharers)
            host = HostMemory(self.split.host_bytes, pinned=self._device.type == "cuda")
            self._store = BlockStore(self._device, self._copies(self._device), host)
        assert self.split is not None
        self._networks.append(network)
        store, streamed = self._store, set(self.split.streamed)
        store.begin([layers[number] for number in sorted(streamed)])
        owner = dict(_owners(module_of(network), layers, names))
        waiting = [sum(place == layer for place in owner.values()) for layer in range(len(layers))]

        def placed(name: str) -> None:
            if (number := owner.get(name)) is not None:
                waiting[number] -= 1
                if not waiting[number] and number in streamed:
                    store.take(layers[number])

        return placed

    def finish(self) -> BlockStore | None:
        """Open the store for all networks; None if every layer stays on the device."""
        store = self._store
        if store is None or not store.streamed:
            return None
        store.open()
        for network in self._networks:
            network.arrivals = store
        return store

    def _split(self, network: Network, dtype: torch.dtype, ranks: int) -> Split:
        sizes = [list(sizes) for sizes in _layer_sizes(network, dtype, ranks)]
        beside = sum(_sizes(module_of(network), "", network, dtype, ranks)) - sum(map(sum, sizes))
        slabs = [sum(map(aligned, tensors)) for tensors in sizes]
        return split(slabs, self._room.bytes - self._room.networks * beside, self._room.networks)


def layer_bytes(network: Network, dtype: torch.dtype, ranks: int = 1) -> tuple[list[int], int]:
    """Return the bytes of each layer of a network on the meta device, and of all else; of the experts, one rank's."""
    layers = [sum(sizes) for sizes in _layer_sizes(network, dtype, ranks)]
    return layers, sum(_sizes(module_of(network), "", network, dtype, ranks)) - sum(layers)


def _layer_sizes(network: Network, dtype: torch.dtype, ranks: int) -> Iterator[list[int]]:
    prefixes = {module: name for name, module in module_of(network).named_modules()}
    for layer in network.layers():
        yield list(_sizes(layer, f"{prefixes[layer]}.", network, dtype, ranks))


def _sizes(module: nn.Module, prefix: str, network: Network, dtype: torch.dtype, ranks: int) -> Iterator[int]:
    """Yield the bytes that each tensor of a module will have."""
    made, stacks = set[str](), set[str]()  # in a form of their own, and those of them that are spread over ranks
    for path, part in module.named_modules():
        names = {f"{path}.{name}".removeprefix(".") for name in part._non_persistent_buffers_set}
        made |= names
        stacks |= names if isinstance(part, QuantizedExperts) else set()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        final = tensor.dtype if name in made else dtype_of(prefix + name, dtype, network.float32_modules)
        share = ranks if name in stacks or network.expert_stacks.search(prefix + name) else 1
        yield tensor.numel() * final.itemsize // share


def _owners(root: nn.Module, layers: list[nn.Module], names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield, with the name of each tensor that belongs to a layer, the number of that layer."""
    prefixes = {module: name for name, module in root.named_modules()}
    numbers = {f"{prefixes[layer]}.": number for number, layer in enumerate(layers)}
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts)):
            number = numbers.get(".".join(parts[:length]) + ".")
            if number is not None:
                yield name, number
                break
