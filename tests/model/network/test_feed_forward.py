"""On a CPU a long batch goes through a feed-forward layer in parts."""

from __future__ import annotations

import torch

from zoetrope.model.network.experts import PART_ROWS, DenseFeedForward

D = 32


def test_a_feed_forward_in_parts_gives_the_rows_of_the_whole() -> None:
    torch.manual_seed(0)
    layer = DenseFeedForward(D, 1024).requires_grad_(False)
    assert layer.part == PART_ROWS
    x = torch.randn(2 * PART_ROWS + 7, D)
    assert torch.allclose(layer(x), layer.net(x), rtol=0, atol=1e-6)
    assert layer(x).shape == x.shape and layer(x[:0]).shape == (0, D)
