"""DeepSpeed's own layers beside ours, on the ranks of one gang."""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from tests.cluster.parallel.exchange_jobs import attend_all, qkv
from tests.cluster.parallel.gangs import EXCHANGE
from zoetrope.cluster.parallel.exchange import GangExchange
from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.reference.routing import permute_by_expert
from zoetrope.model.network.experts import DenseFeedForward, MoEFeedForward

DIM, HIDDEN, EXPERTS = 12, 10, 8
Pair = tuple[torch.Tensor, torch.Tensor]  # what DeepSpeed makes, and what we do


def _start() -> None:
    logging.disable(logging.INFO)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # It would compile a reduction in shared memory first, which takes minutes; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False, auto_mpi_discovery=False)


def beside_deepspeed(tokens: int, heads: int, lengths: list[int]) -> tuple[Pair, Pair]:
    """Both in one gang: DeepSpeed keeps its process groups in globals, which outlive a world."""
    _start()
    mesh = Mesh.build(torch.device("cpu"), 1, EXCHANGE)
    with torch.no_grad():
        return _experts(mesh, tokens), _attention(mesh, heads, lengths)


def _experts(mesh: Mesh, tokens: int) -> Pair:
    """``tokens`` of each rank through the best two of eight experts, weighted by a softmax over the two."""
    from deepspeed.moe.layer import MoE

    torch.manual_seed(0)
    ours = MoEFeedForward(DIM, HIDDEN, EXPERTS, 2, 0)
    each = EXPERTS // mesh.ranks
    own = range(mesh.place * each, (mesh.place + 1) * each)
    theirs = MoE(
        DIM,
        DenseFeedForward(DIM, HIDDEN),
        EXPERTS,
        ep_size=mesh.ranks,
        k=2,
        drop_tokens=False,
        use_rts=False,
        top2_2nd_expert_sampling=False,
    ).eval()
    theirs.set_deepspeed_parallelism()
    theirs.deepspeed_moe.gate.wg.weight.copy_(ours.gate.weight)
    for expert, number in zip(theirs.deepspeed_moe.experts.deepspeed_experts, own, strict=True):
        w1, w2 = ours.w1[number].T, ours.w2[number].T
        zeros = {"net.0.proj.bias": torch.zeros(HIDDEN), "net.2.bias": torch.zeros(DIM)}
        expert.load_state_dict({"net.0.proj.weight": w1, "net.2.weight": w2, **zeros})
    x = torch.randn(mesh.ranks * tokens, DIM)[mesh.place * tokens : (mesh.place + 1) * tokens]
    expected = theirs(x[None])[0][0]

    ours.w1, ours.w2 = (nn.Parameter(w[own.start : own.stop]) for w in (ours.w1, ours.w2))
    gates, chosen = ours.gate(x).softmax(-1).topk(2)
    rows = permute_by_expert(chosen, gates / gates.sum(-1, keepdim=True), EXPERTS)
    assert mesh.sequence is not None
    parts = CuSeqlens.of([tokens] * mesh.ranks)
    exchange = GangExchange(mesh.sequence, CuSeqlens.of([parts.total]), parts)
    return expected, exchange.experts(x, lambda _: rows, ours.apply_experts)


def _attention(mesh: Mesh, heads: int, lengths: list[int]) -> Pair:
    """Sequences in one row of tokens, evenly cut, for DeepSpeed with a mask between them."""
    from deepspeed.sequence.layer import DistributedAttention

    total = sum(lengths)
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = owner[:, None] == owner

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [1, tokens, heads, dim]
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    parts = CuSeqlens.of([total // mesh.ranks] * mesh.ranks)
    rows = slice(*parts.offsets[mesh.place : mesh.place + 2])
    q, k, v = (x[rows] for x in qkv(total, heads, torch.float32))
    assert mesh.sequence is not None
    theirs = DistributedAttention(attention, mesh.sequence, scatter_idx=2, gather_idx=1)
    expected = theirs(q[None], k[None], v[None], batch_dim_idx=0)[0]
    exchange = GangExchange(mesh.sequence, CuSeqlens.of(lengths), parts)
    return expected.view(q.shape), attend_all(exchange, q, k, v)
