"""Tensors in, tensors out: the operations where a denoising step spends its time.

Every public function works on packed tokens (``[N, ...]``, sequences laid end to end) and is differentiable.
This floor imports nothing from the floors above it.
"""

from kernels.attention import varlen_attention
from kernels.grouped_gemm import grouped_gemm
from kernels.modulation import norm_modulate, residual_gate
from kernels.qk_norm_rope import qk_norm_rope
from kernels.routing import Permutation, permute_by_expert, route_grouped_top1, route_top_k
from kernels.varlen import CuSeqlens

__all__ = [
    "CuSeqlens",
    "Permutation",
    "grouped_gemm",
    "norm_modulate",
    "permute_by_expert",
    "qk_norm_rope",
    "residual_gate",
    "route_grouped_top1",
    "route_top_k",
    "varlen_attention",
]
