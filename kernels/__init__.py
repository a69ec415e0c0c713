"""The operations where a denoising step spends its time: tensors in, tensors out.

Every public function works on packed tokens (``[N, ...]``, sequences end to end), chooses its implementation by
`kernels.select.backends`, and is differentiable by torch's own operations.
This floor imports nothing from the floors above it.
"""

from zoetrope.kernels.ops.attention import varlen_attention
from zoetrope.kernels.ops.attention_8bit import attends_in_8bit, attention_of_projections
from zoetrope.kernels.ops.combine import combine_experts
from zoetrope.kernels.ops.dispatch import Arrivals, Departures, arrange_arrivals, dispatch_tokens
from zoetrope.kernels.ops.grouped_gemm import grouped_gemm
from zoetrope.kernels.ops.grouped_gemm_fp8 import grouped_gemm_fp8
from zoetrope.kernels.ops.linear_fp8 import linear_fp8
from zoetrope.kernels.ops.linear_gelu import linear_gelu
from zoetrope.kernels.ops.permute_rows import permute_rows
from zoetrope.kernels.ops.qk_norm_rope import qk_norm_rope
from zoetrope.kernels.ops.quantise_fp8 import quantise_rows, quantise_weight
from zoetrope.kernels.ops.residual_norm import residual_gate, residual_norm
from zoetrope.kernels.ops.router_logits import router_logits
from zoetrope.kernels.ops.routing import route_grouped_top1, route_top_k
from zoetrope.kernels.types.block_mask import BlockMask
from zoetrope.kernels.types.fp8_rows import Fp8Rows
from zoetrope.kernels.types.permutation import Permutation
from zoetrope.kernels.types.varlen import CuSeqlens

__all__ = [
    "Arrivals",
    "BlockMask",
    "CuSeqlens",
    "Departures",
    "Fp8Rows",
    "Permutation",
    "arrange_arrivals",
    "attends_in_8bit",
    "attention_of_projections",
    "combine_experts",
    "dispatch_tokens",
    "grouped_gemm",
    "grouped_gemm_fp8",
    "linear_fp8",
    "linear_gelu",
    "permute_rows",
    "qk_norm_rope",
    "quantise_rows",
    "quantise_weight",
    "residual_gate",
    "residual_norm",
    "route_grouped_top1",
    "route_top_k",
    "router_logits",
    "varlen_attention",
]
