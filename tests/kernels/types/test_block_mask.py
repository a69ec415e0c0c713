"""Block masks of attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.kernels.types.block_mask import BlockMask


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


@given(
    shapes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=4),
    heads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_lists_hold_what_the_masks_say(shapes: list[tuple[int, int]], heads: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(heads, *shape, generator=generator) < 0.5 for shape in shapes]
    mask = BlockMask.of(masks)
    assert mask.heads == heads
    assert mask.tiles == tuple(shapes)
    assert mask.count.dtype == mask.index.dtype == torch.int32
    assert mask.count.is_contiguous()
    assert mask.index.is_contiguous()
    first = 0
    for i, (queries, keys) in enumerate(shapes):
        for head in range(heads):
            for query in range(queries):
                held = mask.index[head, first + query, : mask.count[head, first + query]].tolist()
                assert held == masks[i][head, query].nonzero().flatten().tolist()  # ascending, all there
        assert torch.equal(mask.of_sequence(i), masks[i])
        assert torch.equal(mask.dense(keys)[:, first : first + queries], masks[i])
        first += queries


def test_bad_masks() -> None:
    with pytest.raises(ValueError, match="masks is empty"):
        BlockMask.of([])
    with pytest.raises(ValueError, match=r"masks\[1\] is torch.float32"):
        BlockMask.of([ones(1, 2, 2), torch.ones(1, 2, 2)])
    with pytest.raises(ValueError, match=r"masks\[0\] is torch.bool of 2 dimensions"):
        BlockMask.of([ones(2, 2)])
    with pytest.raises(ValueError, match=r"masks\[1\] has 3 heads, masks\[0\] has 1"):
        BlockMask.of([ones(1, 2, 2), ones(3, 2, 2)])
