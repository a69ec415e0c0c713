"""The network on our Triton kernels, in the interpreter where there is no GPU: the same calls, the same result."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.numbers import DEVICE, relative_error
from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.select import backends
from zoetrope.kernels.select.abilities import KernelCall
from zoetrope.kernels.select.backends import BACKENDS, use
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.network import blocks
from zoetrope.model.network.blocks import Attention
from zoetrope.model.network.exchange import ALONE
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence, Stream
from zoetrope.model.request.load_options import LoadOptions

# What a GPU of Hopper's kind runs once proved; Gluon has no interpreter.
OURS = "triton"


@pytest.fixture(scope="module")
def nano() -> Network:
    return load_transformer(find_model("nano"), DEVICE, dtype=torch.float32)


def sequence(network: Network, size: tuple[int, int, int], level: float, seed: int, source: bool) -> Sequence:
    generator = torch.Generator().manual_seed(seed)
    config = network.config

    def stream(size: tuple[int, int, int], level: float, source_id: int) -> Stream:
        latents = torch.randn(config.in_channels, *size, generator=generator)
        return Stream(latents.to(DEVICE), torch.full((size[0],), level, device=DEVICE), source_id)

    sources = (stream((1, 2, 4), 0.0, 1),) if source else ()
    text = torch.randn(5 + seed, config.text_dim, generator=generator).to(DEVICE)
    return Sequence((*sources, stream(size, level, 0)), text)


def both(network: Network, monkeypatch: pytest.MonkeyPatch) -> tuple[float, dict[str, set[str]]]:
    """The error of a forward by our kernels, relative to one by torch, and what ran in it."""
    batch = network.pack([sequence(network, (2, 4, 6), 700.0, 1, False), sequence(network, (1, 6, 4), 120.0, 2, True)])
    with use("torch,attention=sdpa"):
        expected = network(batch)
    chosen: dict[str, set[str]] = {}
    choose = backends._choose

    def watch(op: str, call: KernelCall, asked: str | None) -> str:
        chosen.setdefault(op, set()).add(name := choose(op, call, asked))
        return name

    monkeypatch.setattr(backends, "_choose", watch)
    with use(OURS):
        return relative_error(network(batch), expected), chosen


@torch.inference_mode()
def test_a_forward_by_our_kernels_is_one_by_torch(nano: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    error, chosen = both(nano, monkeypatch)
    elsewhere = {"dispatch", "quantise_fp8", "linear_fp8", "grouped_gemm_fp8"}  # of other ranks, and of 8 bits
    alone = {op: {"triton"} for op in BACKENDS if op not in elsewhere}
    assert chosen == alone, "every operation of the network has a kernel and runs it"
    assert error < 1e-4


@torch.inference_mode()
def test_self_attention_in_8_bits_quantises_where_it_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention, cu = Attention(64, 2, 1e-6).to(DEVICE), CuSeqlens.of([9, 6])
    x, angle = torch.randn(15, 64).to(DEVICE), torch.randn(15, 16).to(DEVICE)
    rope = angle.cos(), angle.sin()
    with use("torch,attention=reference"):
        expected = attention(x, x, cu, cu, rope, exchange=ALONE)
    with use("torch,attention=int8"):  # the norm is not in our kernel: one after the other
        in_steps = attention(x, x, cu, cu, rope, exchange=ALONE)
    with monkeypatch.context() as patch, use("triton,attention=int8"):
        patch.setattr(blocks, "qk_norm_rope", lambda *_: pytest.fail("queries and keys were normed on their own"))
        fused = attention(x, x, cu, cu, rope, exchange=ALONE)
    assert relative_error(in_steps, expected) < 0.01 and relative_error(fused, expected) < 0.01
    assert relative_error(fused, in_steps) < 0.005


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:Conversion of an array")  # the interpreter's own
@torch.inference_mode()
def test_one_in_8_bits_by_our_kernels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_transformer(find_model("nano", LoadOptions(quantize="fp8")), DEVICE, dtype=torch.float32)
    error, chosen = both(network, monkeypatch)
    assert (chosen["quantise_fp8"], chosen["grouped_gemm_fp8"]) == ({"triton"}, {"triton"})
    assert chosen["linear_fp8"] == {"torch"}, "torch's own product makes bfloat16 alone"
    assert error < 1e-2, "a last bit decides between two 8-bit numbers"
