"""Attention in Triton and by torch against float64."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.attention_cases import expected, qkv
from tests.kernels.numbers import DEVICE, DTYPES, LIMITS, randn, relative_error
from zoetrope.kernels.gpu.tiles import AttentionTile, attention_candidates, attention_tile
from zoetrope.kernels.reference import attention as reference
from zoetrope.kernels.types.block_mask import BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens

pytest.importorskip("triton")

from zoetrope.kernels.gpu.attention import attention, variants, why_not
from zoetrope.kernels.gpu.schedule import FIELDS, query_tiles

Lengths = list[tuple[int, int]]
PAIRS = st.lists(
    st.tuples(st.sampled_from([1, 17, 64, 129]), st.sampled_from([1, 3, 64, 100, 140])), min_size=1, max_size=3
)
DIMS = st.sampled_from([32, 64, 128])


def cu(lengths: Lengths) -> tuple[CuSeqlens, CuSeqlens]:
    return CuSeqlens.of(q for q, _ in lengths), CuSeqlens.of(k for _, k in lengths)


def agrees(
    got: torch.Tensor | tuple[torch.Tensor, torch.Tensor], want: tuple[torch.Tensor, torch.Tensor], dtype: torch.dtype
) -> None:
    assert isinstance(got, tuple)
    out, lse = got
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert relative_error(out, want[0]) <= LIMITS[dtype]
    has_keys = want[1].isfinite()
    assert torch.equal(lse.cpu().isfinite(), has_keys)
    assert relative_error(lse.cpu()[has_keys], want[1][has_keys]) <= LIMITS[dtype]
    assert (lse.cpu()[~has_keys] == -torch.inf).all()


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=draws(8), deadline=None)
@given(lengths=PAIRS, heads=st.integers(1, 3), dim=DIMS, seed=st.integers(0, 1000))
def test_packed_sequences(dtype: torch.dtype, lengths: Lengths, heads: int, dim: int, seed: int) -> None:
    q, k, v = qkv(lengths, heads, dim, dtype, seed)
    got = attention(q, k, v, *cu(lengths), return_lse=True)
    agrees(got, expected(q, k, v, lengths), dtype)
    agrees(reference.attention(q, k, v, *cu(lengths), return_lse=True), expected(q, k, v, lengths), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=draws(6), deadline=None)
@given(lengths=PAIRS, dim=DIMS, density=st.sampled_from([0.3, 0.8]), seed=st.integers(0, 1000))
def test_block_masks(dtype: torch.dtype, lengths: Lengths, dim: int, density: float, seed: int) -> None:
    q, k, v = qkv(lengths, 2, dim, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(2, -(-lq // 128), -(-lk // 64), generator=generator) < density for lq, lk in lengths]
    mask = BlockMask.of([m.to(DEVICE) for m in masks])
    want = expected(q, k, v, lengths, masks)
    agrees(attention(q, k, v, *cu(lengths), mask=mask, return_lse=True), want, dtype)
    agrees(reference.attention(q, k, v, *cu(lengths), mask=mask, return_lse=True), want, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_tiles_of_keys(dtype: torch.dtype) -> None:
    lengths = [(3, 700)]
    q, k, v = qkv(lengths, 1, 64, dtype, 5)
    agrees(attention(q, k, v, *cu(lengths), return_lse=True), expected(q, k, v, lengths), dtype)


@pytest.mark.parametrize("tile", [AttentionTile(64, 64, 4, 2), AttentionTile(16, 32, 4, 1, tma=False)])
def test_other_tiles(tile: AttentionTile) -> None:
    lengths = [(20, 130), (130, 65)]
    q, k, v = qkv(lengths, 2, 32, torch.float16, 5)
    want = expected(q, k, v, lengths)
    agrees(attention(q, k, v, *cu(lengths), return_lse=True, tile=tile), want, torch.float16)
    masks = [
        torch.tensor([[[True, False, True]], [[False, False, True]]]),
        torch.tensor([[[True, False], [True, True]]] * 2),
    ]
    mask = BlockMask.of([m.to(DEVICE) for m in masks])
    got = attention(q, k, v, *cu(lengths), mask=mask, return_lse=True, tile=tile)
    agrees(got, expected(q, k, v, lengths, masks), torch.float16)


@pytest.mark.parametrize("function", [attention, reference.attention, reference.attention_sdpa])
def test_no_keys_and_no_queries(function: Callable[..., Any]) -> None:
    lengths = [(5, 0), (0, 7), (0, 0), (3, 4)]
    q, k, v = qkv(lengths, 2, 32, torch.float32, 0)
    assert relative_error(function(q, k, v, *cu(lengths)), expected(q, k, v, lengths)[0]) <= 1e-5
    if function is not reference.attention_sdpa:
        agrees(function(q, k, v, *cu(lengths), return_lse=True), expected(q, k, v, lengths), torch.float32)
    for empty in ([(0, 7)], [(0, 0)], [(5, 0)], []):
        q, k, v = qkv(empty, 2, 32, torch.float32, 0)
        out = function(q, k, v, *cu(empty))
        assert out.shape == q.shape
        assert not out.any()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("tma", [True, False])
def test_neighbours_do_not_leak(poison: float, tma: bool) -> None:
    lengths = [(20, 70), (20, 70), (20, 70)]
    q, k, v = qkv(lengths, 1, 64, torch.float16, 3)
    tile = AttentionTile(tma=tma)
    clean = attention(q[20:40], k[70:140], v[70:140], *cu(lengths[:1]), return_lse=True, tile=tile)
    for x, rows in ((q, 20), (k, 70), (v, 70)):
        x[:rows] = poison
        x[2 * rows :] = poison
    out, lse = attention(q, k, v, *cu(lengths), return_lse=True, tile=tile)
    assert torch.equal(out[20:40], clean[0])
    assert torch.equal(lse[:, 20:40], clean[1])


def test_a_sequence_is_the_same_alone_and_packed() -> None:
    lengths = [(30, 100), (70, 30), (130, 130)]
    q, k, v = qkv(lengths, 2, 32, torch.float32, 3)
    packed = attention(q, k, v, *cu(lengths))
    alone = attention(q[30:100], k[100:130], v[100:130], *cu(lengths[1:2]))
    assert isinstance(packed, torch.Tensor)
    assert isinstance(alone, torch.Tensor)
    assert torch.equal(packed[30:100], alone)


@pytest.mark.parametrize("layout", ["fused", "heads first", "offset"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_views(layout: str, dtype: torch.dtype) -> None:
    lengths = [(33, 33), (90, 90)]
    if layout == "fused":
        q, k, v = randn(123, 3, 2, 64, seed=1, dtype=dtype).unbind(1)
    elif layout == "heads first":
        q, k, v = (x.transpose(0, 1) for x in randn(3, 2, 123, 64, seed=1, dtype=dtype))
    else:
        q, k, v = (x[3:, 1:3, 32:96] for x in randn(3, 126, 4, 128, seed=1, dtype=dtype))
    agrees(attention(q, k, v, *cu(lengths), return_lse=True), expected(q, k, v, lengths), dtype)


def test_large_scores_do_not_overflow() -> None:
    lengths = [(40, 90)]
    q, k, v = qkv(lengths, 1, 32, torch.float32, 3)
    q *= 1e3
    agrees(attention(q, k, v, *cu(lengths), return_lse=True), expected(q, k, v, lengths), torch.float32)


def test_bad_input() -> None:
    lengths = [(10, 20)]
    q, k, v = qkv(lengths, 2, 32, torch.float16, 3)
    sequences = cu(lengths)
    mask = BlockMask.of([torch.ones(2, 1, 1, dtype=torch.bool, device=DEVICE)])
    unaligned = randn(20, 66, seed=0, dtype=q.dtype)[:, 1:65].unflatten(1, (2, 32))
    calls: dict[str, Callable[[], object]] = {
        "q has shape": lambda: attention(q[0], k, v, *sequences),
        "v is torch.float32": lambda: attention(q, k, v.float(), *sequences),
        "v has shape": lambda: attention(q, k, v[1:], *sequences),
        "k has heads": lambda: attention(q[:, :1], k, v, *sequences),
        "cu_q has 2 sequences": lambda: attention(q, k, v, CuSeqlens.of([5, 5]), sequences[1]),
        "none can be negative": lambda: attention(q, k, v, CuSeqlens.of([-1, 11]), CuSeqlens.of([10, 10])),
        "q has 10 rows for 9": lambda: attention(q, k, v, CuSeqlens.of([9]), sequences[1]),
        "heads of 32, 64, 128, not 24": lambda: attention(q[..., :24], k[..., :24], v[..., :24], *sequences),
        "not torch.float64": lambda: attention(q.double(), k.double(), v.double(), *sequences),
        "last dimension must be contiguous": lambda: attention(q, k, v.mT.contiguous().mT, *sequences),
        "multiple of 16 bytes": lambda: attention(q, unaligned, v, *sequences),
        "mask is for tiles": lambda: attention(q, k, v, CuSeqlens.of([5, 5]), CuSeqlens.of([10, 10]), mask=mask),
        "mask has 2 heads, q has 1": lambda: attention(q[:, :1], k[:, :1], v[:, :1], *sequences, mask=mask),
        "it gives no log-sum-exp": lambda: reference.attention_sdpa(q, k, v, *sequences, return_lse=True),
        "it takes no block mask": lambda: reference.attention_sdpa(q, k, v, *sequences, mask=mask),
        "attention by flash_attn": lambda: reference.attention_flash(q.float(), k.float(), v.float(), *sequences),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert why_not(q, k, v, mask, True) is None


def test_the_reference_goes_backwards() -> None:
    lengths = [(4, 0), (3, 70), (5, 6)]
    q, k, v = (x.double().requires_grad_() for x in qkv(lengths, 2, 32, torch.float32, 3))
    masks = [torch.ones(2, 1, 0), torch.tensor([[[1, 0]], [[0, 0]]]), torch.ones(2, 1, 1)]
    mask = BlockMask.of([m.bool().to(DEVICE) for m in masks])
    out = reference.attention(q, k, v, *cu(lengths), mask=mask)
    assert isinstance(out, torch.Tensor)
    torch.autograd.backward(out.square().sum())
    for x in (q, k, v):
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.any()


@settings(max_examples=draws(10), deadline=None)
@given(lengths=PAIRS, seed=st.integers(0, 1000))
def test_sdpa(lengths: Lengths, seed: int) -> None:
    q, k, v = qkv(lengths * 2, 2, 32, torch.float32, seed)
    want = expected(q, k, v, lengths * 2)[0]
    assert relative_error(reference.attention_sdpa(q, k, v, *cu(lengths * 2)), want) <= 1e-5
    q.requires_grad_()
    assert relative_error(reference.attention_sdpa(q, k, v, *cu(lengths * 2)).detach(), want) <= 1e-5


@pytest.mark.parametrize("form", ["tuple", "padded"])
def test_flash_attn_results_are_put_into_our_layout(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    lengths = [(4, 5), (3, 0), (6, 2)]
    q, k, v = qkv(lengths, 2, 32, torch.float32, 0)
    out, lse = expected(q, k, v, lengths)

    def flash_attn_varlen_func(*qkv: torch.Tensor, **given: Any) -> Any:
        assert given["cu_seqlens_q"].tolist() == [0, 4, 7, 13]
        assert (given["max_seqlen_q"], given["max_seqlen_k"]) == (6, 5)
        if not given["return_attn_probs"]:
            return out
        theirs = lse.nan_to_num(neginf=torch.inf)
        if form == "padded":
            theirs = torch.stack([torch.nn.functional.pad(x, (0, 6 - x.shape[1])) for x in theirs.split([4, 3, 6], 1)])
        return out, theirs, None

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func))
    monkeypatch.setattr(reference, "why_not_flash", lambda *_: None)
    monkeypatch.setattr(reference, "_flash_module", lambda _: "flash_attn")
    alone = reference.attention_flash(q, k, v, *cu(lengths))
    assert isinstance(alone, torch.Tensor)
    assert torch.equal(alone, out)
    got = reference.attention_flash(q, k, v, *cu(lengths), return_lse=True)
    assert torch.equal(got[0], out)
    assert torch.equal(got[1], lse)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=5),
    block=st.sampled_from([16, 64, 128]),
)
def test_schedule(lengths: Lengths, block: int) -> None:
    tiles = query_tiles(*cu(lengths), block, torch.device("cpu"))
    assert tiles.shape == (sum(-(-q // block) for q, _ in lengths), FIELDS)
    rows = tiles.tolist()
    keys = [row[3] - row[2] for row in rows]
    assert keys == sorted(keys, reverse=True)
    covered = sorted(query for begin, end, *_ in rows for query in range(begin, min(begin + block, end)))
    assert covered == list(range(sum(q for q, _ in lengths)))
    for at, (begin, end, _, _, number, sequence, first, count) in enumerate(rows):
        before = sum(q for q, _ in lengths[:sequence])
        assert end == before + lengths[sequence][0]
        assert number == sum(-(-q // 128) for q, _ in lengths[:sequence]) + (begin - before) // 128
        assert first <= at < first + count
        assert {row[5] for row in rows[first : first + count]} == {sequence}


def test_variants_and_candidates() -> None:
    names = [variant.name for variant in variants()]
    assert len(names) == len(set(names))
    for dim in (32, 64, 128):
        for dtype in (torch.float32, torch.bfloat16):
            candidates = attention_candidates(dim, dtype)
            assert candidates[0] == attention_tile(dim, dtype)
            assert len(candidates) == len(set(candidates))
