"""Every sequence has a group and every token a rank, in even shares."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoetrope.cluster.planning.expert_traffic import PAIR_BYTES
from zoetrope.cluster.planning.slicing import assign, even_parts
from zoetrope.kernels.ops import dispatch
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.exchange import ALONE
from zoetrope.model.network.sequences import PackedBatch, Sequence, Stream
from zoetrope.model.network.transformer import WanTransformer


def test_pairs_are_planned_as_large_as_they_are_sent() -> None:
    assert PAIR_BYTES == dispatch.PAIR_BYTES


def test_the_branches_of_a_segment_go_to_different_groups() -> None:
    assert assign([5, 5], 2) == [[0], [1]]
    assert assign([3, 3, 9, 9, 4, 4], 2) == [[0, 2, 4], [1, 3, 5]]
    assert assign([8, 2, 2, 2], 2) == [[0], [1, 2, 3]], "unless another split is more even"
    assert assign([7], 3) == [[0], [], []]


@given(costs=st.lists(st.integers(1, 50), max_size=12), groups=st.integers(1, 4))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_no_group_would_be_lighter_for_handing_its_smallest_sequence_on(costs: list[int], groups: int) -> None:
    members = assign(costs, groups)
    assert sorted(i for m in members for i in m) == list(range(len(costs)))
    loads = [sum(costs[i] for i in m) for m in members]
    for load, m in zip(loads, members, strict=True):
        assert not m or load <= min(loads) + min(costs[i] for i in m)


@given(total=st.integers(0, 200), ranks=st.integers(1, 8))
def test_parts_are_even(total: int, ranks: int) -> None:
    parts = even_parts(total, ranks)
    assert parts.total == total
    assert len(parts.lengths) == ranks
    assert max(parts.lengths) - min(parts.lengths) <= 1


@pytest.fixture(scope="module")
def batch() -> PackedBatch:
    """Of a network that has everything a batch can hold."""
    torch.manual_seed(0)
    config = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=6,
        ffn_dim=8,
        num_layers=1,
        image_dim=5,
        added_kv_proj_dim=24,
        vace_layers=(0,),
        vace_in_channels=3,
    )
    sequences = [
        Sequence(
            (Stream(torch.randn(4, t, 2 * h, 2), torch.rand(t)),),
            torch.randn(words, 6),
            torch.randn(pictures, 5),
            torch.randn(3, t, 2 * h, 2),
            (float(words),),
        )
        for t, h, words, pictures in ((2, 2, 3, 1), (1, 1, 5, 2), (3, 1, 1, 4))
    ]
    return WanTransformer(config).pack(sequences)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 11])
def test_slices_laid_end_to_end_are_the_batch(batch: PackedBatch, ranks: int) -> None:
    parts = even_parts(batch.cu_tokens.total, ranks)
    slices = [batch.part(a, b, ALONE) for a, b in zip(parts.offsets, parts.offsets[1:], strict=False)]
    for name in ("tokens", "cos", "sin", "noise_row", "hints", "hint_scales"):
        assert torch.equal(torch.cat([getattr(s, name) for s in slices]), getattr(batch, name)), name
    owner = torch.arange(3).repeat_interleave(torch.tensor(batch.cu_tokens.lengths))
    for part, start, stop in zip(slices, parts.offsets, parts.offsets[1:], strict=False):
        present, lengths = owner[start:stop].unique(return_counts=True)
        assert part.cu_tokens.lengths == tuple(lengths.tolist())
        assert part.cu_text.lengths == tuple(batch.cu_text.lengths[i] for i in present)
        assert batch.cu_image is not None and part.cu_image is not None and part.image is not None
        assert part.cu_image.lengths == tuple(batch.cu_image.lengths[i] for i in present)
        for rows, cu, name in ((part.text, batch.cu_text, "text"), (part.image, batch.cu_image, "image")):
            whole = getattr(batch, name)
            expected = [whole[cu.offsets[i] : cu.offsets[i + 1]] for i in present]
            assert torch.equal(rows, torch.cat([whole[:0], *expected])), name
        assert torch.equal(part.timesteps, batch.timesteps)
    assert {f.name for f in fields(batch)} == {f.name for f in fields(slices[0])}
