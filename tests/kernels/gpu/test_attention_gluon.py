"""The Gluon attention kernel: its source on a model of the machine; on a Hopper GPU, the kernel itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.kernels.attention_cases import expected, qkv
from tests.kernels.numbers import DEVICE, LIMITS, relative_error
from zoetrope.kernels.types.varlen import CuSeqlens

pytest.importorskip("triton")

from tests.kernels.gpu.gluon_model import Deadlock, Descriptor, Pointer, run_program
from zoetrope.kernels.gpu.attention_gluon import attention, variants, why_not
from zoetrope.kernels.gpu.schedule import FIELDS, query_tiles
from zoetrope.kernels.gpu.tiles import AttentionTile, attention_candidates

Lengths = list[tuple[int, int]]
PAIRS = st.lists(
    st.tuples(st.sampled_from([1, 65, 129]), st.sampled_from([0, 1, 64, 100, 256, 290])), min_size=1, max_size=3
)
HOPPER = DEVICE.type == "cuda" and torch.cuda.get_device_capability() == (9, 0)


def modelled(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: Lengths,
    *,
    stages: int = 2,
    pingpong: bool = False,
    seed: int = 0,
    changes: dict[str, Callable[..., Any]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel's source computes."""
    q, k, v = q.cpu(), k.cpu(), v.cpu()
    queries, heads, dim = q.shape
    out, lse = torch.zeros_like(q), torch.zeros(heads, queries)
    sequences = CuSeqlens.of(lq for lq, _ in lengths), CuSeqlens.of(lk for _, lk in lengths)
    tiles = query_tiles(*sequences, 128, torch.device("cpu"))
    args = (Descriptor(q, 64), Descriptor(k, 64), Descriptor(v, 64), Pointer(out), Pointer(lse), Pointer(tiles))
    args += (heads * dim, queries, heads, dim**-0.5 * math.log2(math.e))  # type: ignore[assignment]
    for program in range(tiles.shape[0] * heads):
        run_program(program, seed + program, (*args, dim, 64, stages, FIELDS, True, pingpong), changes)
    return out, lse


def error(got: tuple[torch.Tensor, torch.Tensor], want: tuple[torch.Tensor, torch.Tensor]) -> float:
    has_keys = want[1].isfinite()
    assert torch.equal(got[1] == -torch.inf, ~has_keys)
    return max(relative_error(got[0], want[0]), relative_error(got[1][has_keys], want[1][has_keys]))


@settings(max_examples=draws(15), deadline=None)
@given(lengths=PAIRS, stages=st.integers(1, 4), pingpong=st.booleans(), seed=st.integers(0, 10_000))
def test_the_source_on_the_model(lengths: Lengths, stages: int, pingpong: bool, seed: int) -> None:
    q, k, v = qkv(lengths, 2, 64, torch.float16, seed)
    got = modelled(q, k, v, lengths, stages=stages, pingpong=pingpong, seed=seed)
    assert error(got, expected(q, k, v, lengths)) <= LIMITS[torch.float16]


def test_neighbours_do_not_leak_on_the_model() -> None:
    lengths = [(20, 70), (20, 70), (20, 70)]
    q, k, v = qkv(lengths, 1, 64, torch.float16, 3)
    want = expected(q[20:40], k[70:140], v[70:140], lengths[:1])
    for x, rows in ((q, 20), (k, 70), (v, 70)):
        x[:rows] = torch.nan
        x[2 * rows :] = torch.nan
    out, lse = modelled(q, k, v, lengths)
    assert error((out[20:40], lse[:, 20:40]), want) <= LIMITS[torch.float16]
    out, lse = modelled(q, k, v, lengths, changes={"clear_rows": lambda *args: None})
    assert out[20:40].isnan().any(), "the model would not have noticed"


MISTAKES: dict[str, dict[str, Callable[..., Any]]] = {
    "a lap too early": {"lap_of": lambda i, stages: (i // stages + 1) & 1},
    "always the first lap": {"lap_of": lambda i, stages: 0},
    "one buffer for all": {"stage_of": lambda i, stages: 0},
    "no wait for products": {"warpgroup_mma_wait": lambda outstanding, deps: deps[0]},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_model_notices_mistakes(mistake: str) -> None:
    lengths = [(100, 330)]
    q, k, v = qkv(lengths, 1, 64, torch.float16, 3)
    with pytest.raises((Deadlock, AssertionError, TypeError, AttributeError)):
        assert error(modelled(q, k, v, lengths, changes=MISTAKES[mistake]), expected(q, k, v, lengths)) <= 2e-3


def test_it_says_what_it_cannot_take() -> None:
    q, k, v = (x.cpu() for x in qkv([(3, 3)], 2, 64, torch.float16, 3))
    assert why_not(q.float(), k, v) == "it takes float16 and bfloat16, not torch.float32"
    assert why_not(q[..., :32], k[..., :32], v[..., :32]) == "it takes heads of 64, 128, not 32"
    assert why_not(q, k, v) == "it needs a CUDA device, not cpu"
    assert "stride 0" in str(why_not(q, k[:, :1].expand(-1, 2, -1), v))
    with pytest.raises(ValueError, match="attention by gluon: it needs a CUDA device"):
        attention(q, k, v, CuSeqlens.of([3]), CuSeqlens.of([3]))


def test_variants_and_candidates() -> None:
    found = variants()
    assert len({variant.name for variant in found}) == len(found)
    for variant in found:
        assert list(variant.signature) == list(variant.kernel.arg_names)
    for dim in (64, 128):
        tiles = attention_candidates(dim, torch.bfloat16, "gluon")
        assert len(set(tiles)) == len(tiles)
        for tile in tiles:
            assert (128 + 2 * tile.num_stages * tile.block_n) * dim * 2 + 1024 <= 227 * 1024


@pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pingpong", [False, True])
@pytest.mark.parametrize("dim", [64, 128])
@settings(max_examples=draws(10), deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 700)), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
)
def test_on_a_gpu(dtype: torch.dtype, pingpong: bool, dim: int, lengths: Lengths, seed: int) -> None:
    q, k, v = qkv(lengths, 3, dim, dtype, seed)
    sequences = CuSeqlens.of(lq for lq, _ in lengths), CuSeqlens.of(lk for _, lk in lengths)
    tile = AttentionTile(128, 128, 4, 2, pingpong=pingpong)
    got = attention(q, k, v, *sequences, return_lse=True, tile=tile)
    want = expected(q, k, v, lengths)
    assert relative_error(got[0], want[0]) <= LIMITS[dtype]
    has_keys = want[1].isfinite()
    assert torch.equal(got[1].cpu() == -torch.inf, ~has_keys)
    assert relative_error(got[1].cpu()[has_keys], want[1][has_keys]) <= LIMITS[dtype]
