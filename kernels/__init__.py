"""Tensors in, tensors out: the operations where a denoising step spends its time.

Every public function works on packed tokens (``[N, ...]``, sequences laid end to end), chooses its implementation by
`kernels.backends`, and is differentiable, by torch's own operations.
This floor imports nothing from the floors above it.
"""

from kernels.attention import varlen_attention, varlen_attention_lse
from kernels.block_mask import BlockMask
from kernels.combine import combine_experts
from kernels.dispatch import Arrivals, Departures, arrange_arrivals, dispatch_tokens
from kernels.grouped_gemm import grouped_gemm
from kernels.linear_gelu import linear_gelu
from kernels.permutation import Permutation
from kernels.qk_norm_rope import qk_norm_rope
from kernels.residual_norm import residual_gate, residual_norm
from kernels.router_logits import router_logits
from kernels.routing import route_grouped_top1, route_top_k
from kernels.varlen import CuSeqlens

__all__ = [
    "Arrivals",
    "BlockMask",
    "CuSeqlens",
    "Departures",
    "Permutation",
    "arrange_arrivals",
    "combine_experts",
    "dispatch_tokens",
    "grouped_gemm",
    "linear_gelu",
    "qk_norm_rope",
    "residual_gate",
    "residual_norm",
    "route_grouped_top1",
    "route_top_k",
    "router_logits",
    "varlen_attention",
    "varlen_attention_lse",
]
