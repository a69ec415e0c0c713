"""Adapters (LoRA, 2106.09685) of single sequences: ``y[t] += f * B A x[t]`` for the rows of those that have one.

A network has slots, each of which holds an adapter, or two side by side. A batch's plan says which of its rows have
which slot, once for all layers; the products of all slots are one grouped product. Batches without adapters have no
plan and pay nothing. Layers that share an input share the product with A. Everything is added in place, to results that
nobody else has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from zoetrope.kernels import CuSeqlens, grouped_gemm
from zoetrope.kernels.types.upload import upload, upload_numbers

# By the input that they share: the linear layers of a block that can have an adapter.
FANS: dict[str, tuple[str, ...]] = {
    "attn1.in": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn1.out": ("attn1.to_out.0",),
    "attn2.in": ("attn2.to_q",),
    "attn2.text": ("attn2.to_k", "attn2.to_v"),
    "attn2.image": ("attn2.add_k_proj", "attn2.add_v_proj"),
    "attn2.out": ("attn2.to_out.0",),
    "ffn.in": ("ffn.net.0.proj",),
    "ffn.out": ("ffn.net.2",),
}


@dataclass(frozen=True)
class SlotUse:
    """The adapters of a sequence.

    Attributes:
        slot: that holds them, of so many ``slots``. key: names what it holds. factors: by which the columns of A x are
            multiplied, one for each column.
    """

    slot: int
    slots: int
    key: tuple[str, ...]
    factors: tuple[float, ...]


@dataclass(frozen=True)
class SlotRows:
    """The rows of a pack that have adapters, ordered by slot.

    Attributes:
        rows: a range, or int64 ``[M]``. offsets: int32 ``[slots + 1]`` into these rows; None if all have one ``slot``.
        factors: ``[M, rank]`` float32; None: all are 1.
    """

    rows: slice | torch.Tensor
    slot: int
    offsets: torch.Tensor | None = None
    factors: torch.Tensor | None = None

    @classmethod
    def of(cls, uses: Sequence[SlotUse | None], cu: CuSeqlens, device: torch.device) -> SlotRows | None:
        """Plan the rows of sequences of such lengths; None if none of them has an adapter."""
        found = [(use.slot, i, use) for i, use in enumerate(uses) if use is not None and cu.lengths[i]]
        found.sort(key=lambda item: item[:2])
        if not found:
            return None
        ranges = [(cu.offsets[i], cu.offsets[i + 1]) for _, i, _ in found]
        lengths = [stop - start for start, stop in ranges]
        rows: slice | torch.Tensor = slice(ranges[0][0], ranges[-1][1])
        if any(before[1] != after[0] for before, after in pairwise(ranges)):
            rows = upload(torch.cat([torch.arange(start, stop) for start, stop in ranges]), device)
        uses_found = [use for _, _, use in found]
        factors = None
        if any(factor != 1.0 for use in uses_found for factor in use.factors):
            table = upload(torch.tensor([use.factors for use in uses_found]), device)
            factors = table.repeat_interleave(upload(torch.tensor(lengths), device), dim=0, output_size=sum(lengths))
        if len({use.slot for use in uses_found}) == 1:
            return cls(rows, uses_found[0].slot, None, factors)
        counts = [0] * uses_found[0].slots
        for use, length in zip(uses_found, lengths, strict=True):
            counts[use.slot] += length
        offsets = upload_numbers(CuSeqlens.of(counts).offsets, device)
        return cls(rows, uses_found[0].slot, offsets, factors)

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Return these rows of ``x`` [N, K]: ``[M, K]``."""
        return x[self.rows] if isinstance(self.rows, slice) else x.index_select(0, self.rows)


@dataclass(frozen=True)
class SlotPlan:
    """The rows with adapters of a batch's tokens, of its text and of its image tokens.

    ``uses``: by sequence.
    """

    tokens: SlotRows | None
    text: SlotRows | None
    image: SlotRows | None
    uses: tuple[SlotUse | None, ...]

    @classmethod
    def of(
        cls,
        uses: tuple[SlotUse | None, ...],
        cu_tokens: CuSeqlens,
        cu_text: CuSeqlens,
        cu_image: CuSeqlens | None,
        device: torch.device,
    ) -> SlotPlan | None:
        """Plan a batch; None if no sequence has an adapter."""
        if not any(uses):
            return None
        image = None if cu_image is None else SlotRows.of(uses, cu_image, device)
        return cls(SlotRows.of(uses, cu_tokens, device), SlotRows.of(uses, cu_text, device), image, uses)


@dataclass(frozen=True)
class Fan:
    """The slots of linear layers that share an input.

    Attributes:
        names: of the layers. a: ``[slots, in, layers * rank]``. b: of each layer, ``[slots, rank, out]``.
    """

    names: tuple[str, ...]
    a: torch.Tensor
    b: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Shrunk:
    """The product of rows with A, to be multiplied with B: ``h`` [M, layers * rank]."""

    h: torch.Tensor
    fan: Fan
    rows: SlotRows

    def add(self, y: torch.Tensor, name: str) -> torch.Tensor:
        """Add to the rows of a layer's result ``y`` [N, out], in place, and return it."""
        rows = self.rows.rows
        if isinstance(rows, slice):
            self.add_to_rows(y[rows], name)
        else:
            y.index_add_(0, rows, self._product(name))
        return y

    def add_to_rows(self, y: torch.Tensor, name: str) -> torch.Tensor:
        """Add to ``y`` [M, out], which has these rows only, in place, and return it."""
        if self.rows.offsets is None:
            return y.addmm_(self._part(name), self._b(name)[self.rows.slot])
        return y.add_(self._product(name))

    def _product(self, name: str) -> torch.Tensor:
        b, part = self._b(name), self._part(name)
        return part @ b[self.rows.slot] if self.rows.offsets is None else grouped_gemm(part, b, self.rows.offsets)

    def _b(self, name: str) -> torch.Tensor:
        return self.fan.b[self.fan.names.index(name)]

    def _part(self, name: str) -> torch.Tensor:
        rank, number = self._b(name).shape[1], self.fan.names.index(name)
        return self.h[:, number * rank : (number + 1) * rank]


@dataclass
class BlockSlots:
    """The slots of a block by the keys of `FANS`: of those layers that any adapter has changed so far."""

    fans: dict[str, Fan] = field(default_factory=dict)

    def shrink(self, fan: str, x: torch.Tensor, rows: SlotRows | None) -> Shrunk | None:
        """Multiply rows of ``x`` [N, in] with A; None if there is nothing to add to these layers."""
        return None if rows is None else self.shrink_rows(fan, rows.take(x), rows)

    def shrink_rows(self, fan: str, x: torch.Tensor, rows: SlotRows) -> Shrunk | None:
        """Multiply ``x`` [M, in], which has these rows only, with A; otherwise as `shrink`."""
        found = self.fans.get(fan)
        if found is None:
            return None
        h = x @ found.a[rows.slot] if rows.offsets is None else grouped_gemm(x, found.a, rows.offsets)
        if rows.factors is not None:
            parts = h.unflatten(1, (len(found.names), -1))
            h = (parts * rows.factors[:, None]).to(h.dtype).flatten(1)
        return Shrunk(h, found, rows)


@dataclass(frozen=True)
class Adapted:
    """The slots of a block, and the batch's plan for them."""

    slots: BlockSlots
    plan: SlotPlan

    def tokens(self, fan: str, x: torch.Tensor) -> Shrunk | None:
        """See `BlockSlots.shrink`, with ``x`` of the batch's tokens."""
        return self.slots.shrink(fan, x, self.plan.tokens)

    def text(self, fan: str, x: torch.Tensor) -> Shrunk | None:
        """The same of its text."""
        return self.slots.shrink(fan, x, self.plan.text)

    def image(self, fan: str, x: torch.Tensor) -> Shrunk | None:
        """The same of its image tokens."""
        return self.slots.shrink(fan, x, self.plan.image)


def plus(y: torch.Tensor, shrunk: Shrunk | None, name: str) -> torch.Tensor:
    """Return a layer's result with what its adapters add, in place."""
    return y if shrunk is None else shrunk.add(y, name)
