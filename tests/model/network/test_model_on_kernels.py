"""The network on our Triton kernels, in the interpreter where there is no GPU: the same calls, the same result."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.numbers import DEVICE, relative_error
from zoetrope.kernels.select import backends
from zoetrope.kernels.select.backends import BACKENDS, KernelCall, use
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence, Stream

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


@torch.inference_mode()
def test_a_forward_by_our_kernels_is_one_by_torch(nano: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = nano.pack([sequence(nano, (2, 4, 6), 700.0, 1, False), sequence(nano, (1, 6, 4), 120.0, 2, True)])
    with use("torch,attention=sdpa"):
        expected = nano(batch)
    chosen: dict[str, set[str]] = {}
    choose = backends._choose

    def watch(op: str, call: KernelCall, asked: str | None) -> str:
        chosen.setdefault(op, set()).add(name := choose(op, call, asked))
        return name

    monkeypatch.setattr(backends, "_choose", watch)
    with use(OURS):
        result = nano(batch)
    elsewhere = {"dispatch", "quantise_fp8", "linear_fp8", "grouped_gemm_fp8"}  # of other ranks, and of 8 bits
    alone = {op: {"triton"} for op in BACKENDS if op not in elsewhere}
    assert chosen == alone, "every operation of the network has a kernel and runs it"
    assert relative_error(result, expected) < 1e-4
