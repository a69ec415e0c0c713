"""Nothing in a block waits for the GPU: no value is read by the host, and nothing is copied to or from it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn.attention import SDPBackend

from tests.kernels.fake_gpu import fake_gpu
from zoetrope.kernels import CuSeqlens, Permutation, arrange_arrivals, dispatch_tokens, grouped_gemm, linear_gelu
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.blocks import Block, Hidden
from zoetrope.model.network.sequences import PackedBatch

DIM, TOKENS, TEXT = 3072, 24_180, 1024
ROUTERS = {
    "one of each group, biases": MoEConfig(
        layers=(0,), num_experts=80, top_k=8, expert_dim=1792, router="grouped_top1", groups=8, expert_bias=True
    ),
    "the best by a sigmoid, a shared expert": MoEConfig(
        layers=(0,), num_experts=128, top_k=8, expert_dim=768, shared_dim=768
    ),
}


@pytest.mark.parametrize("moe", ROUTERS.values(), ids=list(ROUTERS))
def test_a_whole_block_with_experts_never_waits_for_the_device(moe: MoEConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOETROPE_KERNELS", raising=False)
    config = TransformerConfig(
        num_attention_heads=DIM // 128,
        attention_head_dim=128,
        in_channels=48,
        out_channels=48,
        text_dim=4096,
        ffn_dim=14336,
        num_layers=1,
        moe=moe,
    )
    with torch.device("meta"):
        block = Block(config, 0)
    shapes = {name: value.shape for name, value in block.state_dict().items()}
    with fake_gpu(monkeypatch) as traffic, torch.no_grad(), torch.device("cuda"):
        weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        x, text = (torch.empty(rows, DIM, dtype=torch.bfloat16) for rows in (TOKENS, TEXT))
        cos, sin = torch.empty(2, TOKENS, 64).unbind()
        batch = PackedBatch(
            tokens=x,
            cos=cos,
            sin=sin,
            timesteps=torch.empty(2),
            noise_row=torch.zeros(TOKENS, dtype=torch.int64),
            cu_tokens=CuSeqlens.of([TOKENS // 2] * 2),
            texts=tuple(text.chunk(2)),
            cu_text=CuSeqlens.of([TEXT // 2] * 2),
            targets=(),
        )
        traffic.operations.clear()
        given = (Hidden(x), text, None, torch.empty(2, 6, DIM), (cos, sin), batch)
        out: Hidden = torch.func.functional_call(block, weights, given)
    assert out.update is not None and out.update.shape == (TOKENS, DIM)
    assert traffic.operations.count("aten._grouped_mm.default") == 2, "one product for all experts, up and down"
    assert torch._C._get_sdp_priority_order()[0] == SDPBackend.CUDNN_ATTENTION.value
    assert traffic.copies == traffic.waits == []


def rows_of(tokens: int, experts: int, k: int) -> Permutation:
    rows = tokens * k
    ints = [torch.empty(n, dtype=torch.int32) for n in (rows, experts, experts + 1)]
    position = torch.empty(tokens, k, dtype=torch.int32)
    return Permutation(token=ints[0], gate=torch.empty(rows), counts=ints[1], offsets=ints[2], position=position)


def test_tokens_are_assigned_to_ranks_and_sorted_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch) as traffic, torch.no_grad(), torch.device("cuda"):
        leaving = dispatch_tokens(rows_of(512, 16, 4), 4)
        assert leaving.home.shape == (512, 4)
        came = arrange_arrivals(torch.empty(4, 7, dtype=torch.int32), torch.empty(2048, 3, dtype=torch.int32), 512, 4)
        assert came.rows.shape == (2048,)
    assert traffic.copies == traffic.waits == []


@pytest.mark.parametrize("k, n, stored", [(64, 48, False), (60, 50, False), (60, 50, True)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_any_shape_stay_on_the_device(
    k: int, n: int, stored: bool, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gpu(monkeypatch) as traffic, torch.no_grad(), torch.device("cuda"):
        x = torch.empty(300, k + 1, dtype=torch.bfloat16).narrow(1, 1, k)  # rows that start anywhere
        weight = torch.empty(5, n, k, dtype=torch.bfloat16).mT if stored else torch.empty(5, k, n, dtype=torch.bfloat16)
        bias = torch.empty(5, n) if biased else None
        y = grouped_gemm(x, weight, torch.empty(6, dtype=torch.int32), bias, gelu=True)
        assert y.shape == (300, n) and y.dtype == torch.bfloat16 and y.is_contiguous()
        assert grouped_gemm(x.narrow(0, 0, 0), weight, torch.empty(6, dtype=torch.int32), bias).shape == (0, n)
    assert "aten._grouped_mm.default" in traffic.operations
    assert traffic.copies == traffic.waits == []


def test_a_dense_layer_is_one_product_with_its_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch) as traffic, torch.no_grad(), torch.device("cuda"):
        given = [torch.empty(shape, dtype=torch.bfloat16) for shape in ((300, 64), (96, 64), (96,))]
        assert linear_gelu(*given).shape == (300, 96)
    assert "aten._addmm_activation.default" in traffic.operations
    assert not any("gelu" in name for name in traffic.operations)


def test_what_waits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch) as traffic, torch.device("cuda"):
        x = torch.empty(8)
        with pytest.raises(DataDependentOutputException):
            x.tolist()
        with pytest.raises(DataDependentOutputException):
            float(x.sum())
        with pytest.raises(DynamicOutputShapeException):
            torch.nonzero(x > 0)
        with pytest.raises(DynamicOutputShapeException):
            torch.masked_select(x, x > 0)
        assert len(traffic.waits) == 4 and not traffic.copies
        x.cpu()
        torch.tensor([0, 8], device="cuda")
    assert len(traffic.copies) == 2
