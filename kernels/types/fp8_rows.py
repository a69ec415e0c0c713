"""Rows of 8-bit floats with a scale for each."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Fp8Rows(NamedTuple):
    """Rows in 8 bits: row ``i`` is ``q[i] * scale[i]``; see `kernels.ops.quantise_fp8`.

    Attributes:
        q: ``[M, K]`` float8_e4m3fn. scale: ``[M]`` float32.
    """

    q: torch.Tensor
    scale: torch.Tensor

    def take(self, rows: torch.Tensor) -> Fp8Rows:
        """Return the rows of these numbers, ``[n]`` int32 or int64."""
        values = self.q.view(torch.uint8).index_select(0, rows).view(self.q.dtype)  # bytes, on every device
        return Fp8Rows(values, self.scale.index_select(0, rows))

    def split(self, parts: int) -> list[Fp8Rows]:
        """Return as many parts, the rows of which differ in number by one at most."""
        return [Fp8Rows(*part) for part in zip(self.q.tensor_split(parts), self.scale.tensor_split(parts), strict=True)]
