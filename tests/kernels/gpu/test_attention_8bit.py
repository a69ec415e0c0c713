"""8-bit attention against its reference, and against float64 within what rounding to 8 bits can do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.numbers import DEVICE, DTYPES, randn, relative_error
from zoetrope.kernels.gpu.tiles import AttentionTile
from zoetrope.kernels.reference import attention_8bit as plain
from zoetrope.kernels.reference.quantise_qkv import QuantisedQKV, key_order
from zoetrope.kernels.reference.quantise_qkv import quantise_qkv as plain_quantise
from zoetrope.kernels.types.block_mask import BlockMask
from zoetrope.kernels.types.varlen import CuSeqlens

gpu = pytest.importorskip("zoetrope.kernels.gpu.attention_8bit", reason="needs triton")
quantise_qkv = pytest.importorskip("zoetrope.kernels.gpu.quantise_qkv", reason="needs triton").quantise_qkv

CUDA = DEVICE.type == "cuda"
TIE, FEW = 1e-2, 8
AGREE = 2e-3  # kernel and reference round at the same places, except where their means differ in the last bit
Shape = tuple[list[int], list[int], int, int]  # lengths of queries and keys, heads, head_dim
Arguments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, CuSeqlens, CuSeqlens]
MIXED: Shape = ([130, 1, 0, 65], [70, 129, 3, 0], 2, 64)


def inputs(shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0, offset: float = 0.0) -> Arguments:
    """Normal queries, keys and values; ``offset`` times one normal vector a head is added to all keys."""
    lengths_q, lengths_k, heads, dim = shape
    nq, nk = sum(lengths_q), sum(lengths_k)
    common = randn(heads, dim, seed=seed + 3) * offset
    q, k, v = (randn(n, heads, dim, seed=seed + i) for i, n in enumerate((nq, nk, nk)))
    cu = CuSeqlens.of(lengths_q), CuSeqlens.of(lengths_k)
    return q.to(dtype), (k + common).to(dtype), v.to(dtype), *cu


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens, mask: BlockMask | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In float64: the result, the log-sum-exp, and the sum of ``p * |v|``, the size of the numbers that were added."""
    outs, lses, sizes = [], [], []
    parts = (x.double().cpu().split(cu.lengths) for x, cu in ((q, cu_q), (k, cu_k), (v, cu_k)))
    for i, (qs, ks, vs) in enumerate(zip(*parts, strict=True)):
        scores = torch.einsum("qhd,khd->hqk", qs, ks) * q.shape[2] ** -0.5
        if mask is not None:
            blocks = mask.of_sequence(i).cpu().repeat_interleave(128, 1).repeat_interleave(64, 2)
            scores = scores.masked_fill(~blocks[:, : qs.shape[0], : ks.shape[0]], -torch.inf)
        p = scores.softmax(-1).nan_to_num(0.0)
        outs.append(torch.einsum("hqk,khd->qhd", p, vs))
        sizes.append(torch.einsum("hqk,khd->qhd", p, vs.abs()))
        lses.append(scores.logsumexp(-1))
    return torch.cat(outs), torch.cat(lses, 1), torch.cat(sizes)


def score_error(q: torch.Tensor, k: torch.Tensor, cu_q: CuSeqlens, cu_k: CuSeqlens, smooth: bool) -> torch.Tensor:
    """``[Nq, heads]``: how far rounding to 8 bits can move a score of this query at most."""
    bounds = []
    for qs, ks in zip(q.double().cpu().split(cu_q.lengths), k.double().cpu().split(cu_k.lengths), strict=True):
        ks = ks - ks.mean(0) if smooth and len(ks) else ks
        dim, heads = q.shape[2], q.shape[1]
        step_q = qs.abs().amax(-1) / 127
        step_k = ks.abs().amax((0, 2)) / 127 if len(ks) else torch.zeros(heads)  # no tile's step is larger
        widest = ks.abs().sum(-1).amax(0) if len(ks) else torch.zeros(heads)
        moved = step_q / 2 * widest + step_k / 2 * qs.abs().sum(-1) + dim * step_q * step_k / 4
        bounds.append(moved * dim**-0.5)
    return torch.cat(bounds)


def within(
    out: torch.Tensor, x: Arguments, smooth: bool = True, rest: float = 4e-3, mask: BlockMask | None = None
) -> bool:
    """Every element is as near to float64 as the bound on the scores and a relative rounding ``rest`` promise.

    Scores that move by at most b move each probability by a factor between exp(-2 b) and exp(2 b).
    """
    want, _, size = exact(*x, mask=mask)
    moved = torch.expm1(2 * score_error(x[0], x[1], x[3], x[4], smooth))[..., None]
    return bool(((out.double().cpu() - want).abs() <= (moved + rest * (1 + moved)) * size + 1e-6).all())


def same(kernel: Any, reference: Any) -> None:
    """Two results with log-sum-exp agree."""
    assert relative_error(kernel[0], reference[0]) <= AGREE
    there = torch.isfinite(reference[1])
    assert torch.equal(torch.isfinite(kernel[1]), there)
    agree = relative_error(kernel[1][there], reference[1][there]) <= AGREE
    # Components that are rounded the other way move a score so far, which shows where there are hardly others.
    assert agree or (int(there.sum()) <= FEW and bool(((kernel[1] - reference[1])[there].abs() <= TIE).all()))


lengths = st.tuples(st.sampled_from([0, 1, 33, 130]), st.sampled_from([0, 1, 64, 65, 150]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [32, 64, 128])
@settings(max_examples=draws(4), deadline=None)
@given(data=st.data())
def test_any_lengths(dtype: torch.dtype, dim: int, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(lengths, min_size=1, max_size=3))
    shape = ([a for a, _ in pairs], [b for _, b in pairs], data.draw(st.sampled_from([1, 2])), dim)
    x = inputs(shape, dtype, seed=data.draw(st.integers(0, 99)), offset=data.draw(st.sampled_from([0.0, 5.0])))
    smooth = data.draw(st.booleans())
    found = gpu.attention_8bit(*x, smooth=smooth, return_lse=True)
    same(found, plain.attention_8bit(*x, smooth=smooth, return_lse=True))
    assert within(found[0], x, smooth, rest=2e-2 if dtype == torch.bfloat16 else 4e-3)
    lse = exact(*x)[1]
    there = torch.isfinite(lse)
    bound = score_error(x[0], x[1], x[3], x[4], smooth).T[there]
    assert bool(((found[1].cpu().double() - lse)[there].abs() <= bound + 1e-3).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_usual_error(dtype: torch.dtype) -> None:
    """The bound above is for the worst case; normal numbers come out within about one part in a hundred."""
    x = inputs(([160], [192], 2, 128), dtype)
    assert relative_error(gpu.attention_8bit(*x), exact(*x)[0]) <= 0.015


@pytest.mark.parametrize("rows, block", [(64, 64), (128, 128), (64, 128)])
def test_tiles(rows: int, block: int) -> None:
    x = inputs(MIXED, torch.float16)
    tile = AttentionTile(rows, block, num_warps=rows // 16, num_stages=2)
    same(gpu.attention_8bit(*x, tile=tile, return_lse=True), plain.attention_8bit(*x, block=block, return_lse=True))


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantise(dtype: torch.dtype, block: int) -> None:
    x = inputs(([70, 3], [150, 0], 3, 32), dtype, offset=3.0)
    got, want = (f(*x, shift=True, block=block) for f in (quantise_qkv, plain_quantise))
    assert got.first == want.first == (0, -(-150 // block))
    assert torch.equal(got.v, x[2]) and got.v_scale is None
    for name in ("q", "k"):  # a mean that differs in its last bit may turn a rounding
        steps = (getattr(got, name).int() - getattr(want, name).int()).abs()
        assert steps.max() <= 1 and steps.float().mean() <= 1e-3
    for name in ("q_scale", "k_scale", "shift"):
        assert relative_error(getattr(got, name), getattr(want, name)) <= 1e-5


def test_long_means() -> None:
    """More keys than one program reduces, in several chunks."""
    x = inputs(([1], [2500], 1, 32), offset=2.0)
    got, want = (f(*x, shift=True) for f in (quantise_qkv, plain_quantise))
    for name in ("k_scale", "shift"):
        assert relative_error(getattr(got, name), getattr(want, name)) <= 1e-5


def test_smoothing_takes_the_offset_out() -> None:
    x = inputs(([100], [140], 2, 64), offset=20.0)
    want, lse, _ = exact(*x)
    (smooth, lse_smooth), rough = gpu.attention_8bit(*x, return_lse=True), gpu.attention_8bit(*x, smooth=False)
    assert relative_error(smooth, want) <= 0.02 and relative_error(rough, want) >= 0.05
    assert relative_error(lse_smooth, lse) <= 1e-3


def test_zeros() -> None:
    q, k, v, cu_q, cu_k = inputs(([40], [70], 2, 64))
    out, lse = gpu.attention_8bit(q * 0, k * 0, v, cu_q, cu_k, return_lse=True)
    assert relative_error(out, v.mean(0).expand_as(q)) <= 1e-5
    assert torch.allclose(lse, torch.tensor(70.0, device=DEVICE).log().expand_as(lse))


@pytest.mark.parametrize("dtype", DTYPES)
def test_mask(dtype: torch.dtype) -> None:
    x = inputs(([130, 1], [200, 64], 2, 64), dtype)
    first = torch.tensor([[[1, 0, 1, 1], [0, 0, 0, 1]], [[0, 1, 0, 0], [0, 0, 0, 0]]], dtype=torch.bool)
    mask = BlockMask.of([first.to(DEVICE), torch.ones(2, 1, 1, dtype=torch.bool, device=DEVICE)])
    found = gpu.attention_8bit(*x, mask=mask, return_lse=True)
    same(found, plain.attention_8bit(*x, mask=mask, return_lse=True))
    assert within(found[0], x, rest=2e-2 if dtype == torch.bfloat16 else 4e-3, mask=mask)
    assert found[0][128:130, 1].eq(0).all() and found[1][1, 128:130].eq(-torch.inf).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_not_finite_stays_in_its_sequence_and_shows(where: str, bad: float) -> None:
    q, k, v, cu_q, cu_k = inputs(([5, 40, 5], [70, 30, 70], 2, 32))
    clean = gpu.attention_8bit(q, k, v, cu_q, cu_k)
    {"q": q[5:45], "k": k[70:100], "v": v[70:100]}[where][3, 1, 7] = bad
    out = gpu.attention_8bit(q, k, v, cu_q, cu_k)
    assert torch.equal(out[:5], clean[:5]) and torch.equal(out[45:], clean[45:])
    assert torch.equal(out[5:45, 0], clean[5:45, 0])
    hit = out[8:9, 1] if where == "q" else out[5:45, 1, 7:8]
    assert not torch.isfinite(hit).any()


def test_packing_and_order_change_no_bit() -> None:
    x = inputs(([70, 40], [100, 60], 2, 32), torch.float16)
    both = gpu.attention_8bit(*x)
    alone = gpu.attention_8bit(x[0][70:], x[1][100:], x[2][100:], CuSeqlens.of([40]), CuSeqlens.of([60]))
    assert torch.equal(both[70:], alone) and torch.equal(both, gpu.attention_8bit(*x))


def test_strides() -> None:
    """Slices of a fused projection, and heads in front of rows."""
    q, k, v, cu_q, cu_k = inputs(([66], [66], 2, 32), torch.float16)
    expected = gpu.attention_8bit(q, k, v, cu_q, cu_k)
    fused = torch.cat([x.flatten(1) for x in (q, k, v)], dim=1)
    slices = (part.unflatten(1, (2, 32)) for part in fused.split(64, dim=1))
    assert torch.equal(gpu.attention_8bit(*slices, cu_q, cu_k), expected)
    turned = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v))
    assert torch.equal(gpu.attention_8bit(*turned, cu_q, cu_k), expected)


@pytest.mark.parametrize("shape", [([], [], 2, 32), ([0], [5], 2, 32), ([5], [0], 2, 32), ([0, 0], [0, 0], 1, 64)])
@pytest.mark.parametrize("run", [gpu.attention_8bit, plain.attention_8bit])
def test_nothing(run: Any, shape: Shape) -> None:
    x = inputs(shape)
    out, lse = run(*x, return_lse=True)
    assert out.shape == x[0].shape and not out.any()
    assert lse.shape == (shape[2], sum(shape[0])) and lse.eq(-torch.inf).all()


def changed(**replaced: Any) -> dict[str, Any]:
    q, k, v, cu_q, cu_k = inputs(([4], [6], 2, 32))
    return {"q": q, "k": k, "v": v, "cu_q": cu_q, "cu_k": cu_k} | replaced


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, device=DEVICE)


@pytest.mark.parametrize(
    "replaced, said",
    [
        ({"q": zeros(4, 64)}, "q has shape"),
        ({"k": zeros(6, 2, 32, dtype=torch.float16)}, "k is torch.float16"),
        ({"v": zeros(6, 2, 64)}, "v has shape"),
        ({"cu_q": CuSeqlens.of([5])}, "rows"),
        ({"cu_k": CuSeqlens.of([3, 3])}, "sequences"),
        ({"pv": "fp4"}, "pv is 'fp4'"),
        ({name: zeros(n, 2, 48) for name, n in (("q", 4), ("k", 6), ("v", 6))}, "48"),
        ({name: zeros(n, 2, 32).double() for name, n in (("q", 4), ("k", 6), ("v", 6))}, "float64"),
        ({"q": zeros(4, 32, 2).mT}, "q has strides"),
        ({"k": zeros(6, 2, 33)[:, :, :32]}, "k has stride 66"),
        ({"v": zeros(6 * 64 + 1)[1:].view(6, 2, 32)}, "v starts"),
        ({"tile": AttentionTile(block_n=32)}, "block is 32"),
    ],
)
def test_bad_input(replaced: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gpu.attention_8bit(**changed(**replaced))


def test_mask_of_other_sequences() -> None:
    mask = BlockMask.of([torch.ones(2, 1, 2, dtype=torch.bool, device=DEVICE)])
    for run in (gpu.attention_8bit, plain.attention_8bit):
        with pytest.raises(ValueError, match="mask is for tiles"):
            run(**changed(mask=mask))
    right = BlockMask.of([torch.ones(2, 1, 1, dtype=torch.bool, device=DEVICE)])
    with pytest.raises(ValueError, match="block is 128"):
        plain.attention_8bit(**changed(mask=right, block=128))


@pytest.mark.skipif(CUDA, reason="a GPU rounds to 8-bit floats itself")
def test_interpreter_refuses_8_bit_floats() -> None:
    with pytest.raises(ValueError, match="interpreter"):
        gpu.attention_8bit(**changed(pv="fp8"))


@pytest.mark.parametrize("dim", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_8_bit_values(dtype: torch.dtype, dim: int) -> None:
    """e4m3 has 3 bits behind the leading one: probabilities and values move by a 16th at most, each."""
    x = inputs(([130, 0, 3], [150, 5, 64], 2, dim), dtype)
    reference = plain.attention_8bit(*x, pv="fp8", return_lse=True)
    assert within(reference[0], x, rest=(17 / 16) ** 2 - 1 + 1e-2)
    assert relative_error(reference[0], exact(*x)[0]) <= 0.05
    if CUDA and dtype != torch.float32:
        same(gpu.attention_8bit(*x, pv="fp8", return_lse=True), reference)


@pytest.mark.skipif(CUDA, reason="compared above")
def test_8_bit_values_are_found_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts digits off where a GPU rounds, so results are only near; in a wrong order they are far."""
    monkeypatch.setattr(gpu, "why_not", lambda *_, **__: None)
    x = inputs(([70, 0, 3], [150, 5, 64], 2, 32))
    found, reference = (f.attention_8bit(*x, pv="fp8", return_lse=True) for f in (gpu, plain))
    assert relative_error(found[0], reference[0]) <= 0.12
    assert relative_error(found[1], reference[1]) <= 1e-5


def test_8_bit_values_layout() -> None:
    q, k, v, cu_q, cu_k = inputs(([1, 1], [70, 10], 2, 32))
    x: QuantisedQKV = plain_quantise(q, k, v, cu_q, cu_k, pv="fp8")
    assert x.v_scale is not None and tuple(x.v.shape) == (2, 3, 32, 64) and x.first == (0, 2)
    back = x.v.float()[1, 1] * x.v_scale[0, 1, :, None]  # the second tile of the first sequence, head 1
    order = key_order(64)
    assert order[:8].tolist() == [0, 1, 8, 9, 2, 3, 10, 11] and sorted(order.tolist()) == list(range(64))
    keys = back[:, order.argsort()]
    assert relative_error(keys[:, :6], v[64:70, 1].T) <= 0.05 and not keys[:, 6:].any()
    assert torch.allclose(x.v.float().abs().amax((1, 3)).cpu(), torch.tensor(448.0))


def test_variants() -> None:
    """Names are unique, and every parameter of a kernel has its type, in order."""
    from zoetrope.kernels.gpu import quantise_qkv as pass_before

    found = [*gpu.variants(), *pass_before.variants()]
    assert len({variant.name for variant in found}) == len(found)
    for variant in found:
        assert list(variant.signature) == list(variant.kernel.arg_names)
        constants = {name for name, kind in variant.signature.items() if kind == "constexpr"}
        assert constants == set(variant.constexprs)
