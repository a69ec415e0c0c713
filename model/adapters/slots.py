"""Slots for adapters in networks: what is loaded into them, for whom, and when it makes room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from zoetrope.model.adapters.patches import LowRank
from zoetrope.model.adapters.registered import HostAdapter
from zoetrope.model.network.adapted import FANS, BlockSlots, Fan, SlotUse
from zoetrope.model.network.blocks import Block
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.request.loras import AdapterUse, slot_key


class NoSlot(Exception):
    """All slots hold adapters that are in use."""


@dataclass
class _Slot:
    key: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()  # of its adapters, side by side
    holders: set[str] = field(default_factory=set)
    used: int = 0  # a count that grows with each use


class AdapterSlots:
    """Slots of one or two networks, the same in both. What a slot holds stays when nobody needs it any more, until
    another adapter needs the room.

    Memory is taken for the layers that an adapter changes, when the first one does: ``count`` times the rank times
    inputs and outputs.
    """

    def __init__(self, networks: Mapping[str, Network], count: int, rank: int) -> None:
        """
        Args:
            networks: by side: one as ``any``, or any of ``high`` and ``low``. count: of slots. rank: of each, to which
                what it holds is filled up with zeros.
        """
        self.count = count
        self.rank = rank
        self._blocks: list[tuple[str, str, Block]] = []  # side, name and block
        for side, network in networks.items():
            for name, module in module_of(network).named_modules():
                if isinstance(module, Block):
                    module.slots = BlockSlots()
                    self._blocks.append((side, name, module))
        self._slots = [_Slot() for _ in range(count)]
        self._clock = 0

    def holds(self, key: tuple[str, ...]) -> bool:
        """Tell whether a slot holds these adapters."""
        return any(slot.key == key for slot in self._slots)

    def acquire(self, holder: str, adapters: Sequence[HostAdapter]) -> None:
        """Load adapters into a slot, unless one holds them, and keep them there until the holder releases them.

        Raises:
            NoSlot: all are in use.
            ValueError: their ranks are more than a slot's.
        """
        self.release(holder)
        key = tuple(adapter.digest for adapter in adapters)
        ranks = tuple(adapter.rank for adapter in adapters)
        if sum(ranks) > self.rank:
            raise ValueError(f"adapters of rank {' + '.join(map(str, ranks))} in a slot of rank {self.rank}")
        number = next((i for i, slot in enumerate(self._slots) if slot.key == key), None)
        if number is None:
            free = [i for i, slot in enumerate(self._slots) if not slot.holders]
            if not free:
                raise NoSlot(f"all {self.count} adapter slots are in use")
            number = min(free, key=lambda i: self._slots[i].used)
            self._slots[number] = _Slot()  # holds nothing until it is whole
            self._load(number, adapters)
            self._slots[number] = _Slot(key, ranks)
        self._slots[number].holders.add(holder)
        self._clock += 1
        self._slots[number].used = self._clock

    def release(self, holder: str) -> None:
        """End what `acquire` began for a holder, if it did."""
        for slot in self._slots:
            slot.holders.discard(holder)

    def use(self, holder: str, loras: Sequence[AdapterUse], low_noise: bool) -> SlotUse:
        """Return what the sequences of a holder have of the slots.

        Args:
            low_noise: the low-noise expert takes the step.

        Raises:
            RuntimeError: it did not acquire them; it must not run without them.
        """
        key = slot_key(loras)
        for number, slot in enumerate(self._slots):
            if holder in slot.holders and slot.key == key:
                factors: list[float] = []
                for lora, rank in zip(loras, slot.ranks, strict=True):
                    low = low_noise and lora.strength_low is not None
                    factors += [lora.strength_low if low else lora.strength] * rank  # type: ignore[list-item]
                factors += factors[-1:] * (self.rank - len(factors))  # of columns of zeros
                return SlotUse(number, self.count, key, tuple(factors))
        raise RuntimeError(f"segment {holder}: its adapters are not loaded")

    def _load(self, number: int, adapters: Sequence[HostAdapter]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for side, name, block in self._blocks:
                patches = [adapter.of(side) for adapter in adapters]
                for fan, linears in FANS.items():
                    targets = [f"{name}.{linear}.weight" for linear in linears]
                    found = [[of.get(target) for of in patches] for target in targets]
                    self._load_fan(block, fan, number, found, [adapter.rank for adapter in adapters])

    def _load_fan(
        self, block: Block, fan: str, number: int, found: Sequence[Sequence[LowRank | None]], ranks: Sequence[int]
    ) -> None:
        """Fill a slot of layers that share an input; ``found``: of each layer the change of each adapter."""
        assert block.slots is not None
        changed = any(patch is not None for layer in found for patch in layer)
        if fan not in block.slots.fans:
            if not changed:
                return
            block.slots.fans[fan] = _empty(block, FANS[fan], self.count, self.rank)
        there = block.slots.fans[fan]
        there.a[number].zero_()
        for layer, of_layer in enumerate(found):
            there.b[layer][number].zero_()
            start = 0
            for patch, rank in zip(of_layer, ranks, strict=True):
                if patch is not None:
                    column = layer * self.rank + start
                    there.a[number, :, column : column + patch.rank].copy_(patch.a.mT, non_blocking=True)
                    b = patch.b if patch.scale == 1.0 else patch.scale * patch.b.float()
                    there.b[layer][number, start : start + patch.rank].copy_(b.mT, non_blocking=True)
                start += rank


def _empty(block: Block, names: tuple[str, ...], count: int, rank: int) -> Fan:
    weights = [getattr(block.get_submodule(name), "weight") for name in names]  # noqa: B009 (of any type)
    shapes = [tuple(weight.shape) for weight in weights]
    like = block.attn1.norm_q.weight  # has the dtype and the device of activations, in networks of 8 bits too
    a = like.new_zeros(count, shapes[0][1], len(names) * rank)
    return Fan(names, a, tuple(like.new_zeros(count, rank, out) for out, _ in shapes))
