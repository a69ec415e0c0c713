"""Float32 logits from 16-bit tokens without a float32 copy of them.

A bfloat16 token times a float32 weight: the weight is cut into three bfloat16 parts, whose products with the token are
exact in float32 and are summed tile by tile, smallest first. Three passes of the tensor cores give what one in float32
would (the idea of the bf16x3 emulation of float32 products, Henry et al., arXiv 1904.06376, with one side exact).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import on_device, require_device, require_rows_contiguous
from zoetrope.kernels.gpu.variant import Variant

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MAX_EXPERTS = 256
BLOCK_K = 64
WARPS = 8


@triton.jit
def _logits(
    x,
    weight,
    out,
    tokens,
    x_stride,
    D: tl.constexpr,
    E: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    expert = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    column = tl.arange(0, BLOCK_K)
    here, known = token < tokens, expert < E
    total = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    for start in range(0, D, BLOCK_K):
        inside = start + column < D
        a = tl.load(x + token[:, None] * x_stride + start + column, mask=here[:, None] & inside, other=0.0)
        w = tl.load(weight + expert[None, :] * D + start + column[:, None], mask=known & inside[:, None], other=0.0)
        w = w.to(tl.float32)
        if SPLIT:
            high = w.to(tl.bfloat16)
            rest = w - high.to(tl.float32)
            middle = rest.to(tl.bfloat16)
            low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
            # Tensor cores cut off digits below the largest number of a sum, always downwards: a total kept there over
            # all of D would be off by more than 1e-5, and experts with near logits would change places. So each tile is
            # summed there alone, and the tiles by float32 additions, which round (DeepSeek-V3's promotion, 2412.19437).
            total += tl.dot(a, high, tl.dot(a, middle, tl.dot(a, low)))
        else:
            total = tl.dot(a.to(tl.float32), w, total, input_precision="ieee")
    tl.store(out + token[:, None] * E + expert, total, mask=here[:, None] & known)


def _block_m(dtype: torch.dtype) -> int:
    """Return the tokens of a program: fewer without tensor cores, where registers would spill."""
    return 128 if dtype == torch.bfloat16 else 32


def _block_e(experts: int) -> int:
    return max(16, min(64, 1 << (experts - 1).bit_length()))


def router_logits(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute ``x @ weight.T`` in float32.

    Args:
        x: ``[N, D]`` float32, float16 or bfloat16; D a multiple of 8, rows may be further apart.
        weight: ``[E, D]``, any of these dtypes, contiguous; E up to 256.

    Returns:
        ``[N, E]`` float32.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernel cannot take.
    """
    if x.ndim != 2 or x.shape[1] % 8 or x.shape[1] == 0:
        raise ValueError(f"x is {tuple(x.shape)}: it must be [N, D] with D a multiple of 8")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1] or not 1 <= weight.shape[0] <= MAX_EXPERTS:
        raise ValueError(f"weight is {tuple(weight.shape)}: it must be [1 to {MAX_EXPERTS}, {x.shape[1]}]")
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} is {tensor.dtype}: it must be float32, float16 or bfloat16")
    if not weight.is_contiguous():
        raise ValueError(f"weight has strides {weight.stride()}: it must be contiguous")
    device = require_device(x=x, weight=weight)
    require_rows_contiguous(x=x, weight=weight)
    (tokens, width), experts = x.shape, weight.shape[0]
    out = torch.empty(tokens, experts, dtype=torch.float32, device=device)
    if tokens:
        rows, block = _block_m(x.dtype), _block_e(experts)
        with on_device(device):
            _logits[(triton.cdiv(tokens, rows), triton.cdiv(experts, block))](
                x,
                weight,
                out,
                tokens,
                x.stride(0),
                D=width,
                E=experts,
                SPLIT=x.dtype == torch.bfloat16,
                BLOCK_M=rows,
                BLOCK_E=block,
                BLOCK_K=BLOCK_K,
                num_warps=WARPS,
            )
    return out


def variants() -> list[Variant]:
    """List the widths and numbers of experts of the presets, and nano's; and a width that is no multiple of 16."""
    forms: list[Variant] = []
    for dtype, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        for width, experts in ((3072, 80), (5120, 48), (128, 16), (72, 256)):
            constants = {
                "D": width,
                "E": experts,
                "SPLIT": dtype == "bf16",
                "BLOCK_M": _block_m(kind),
                "BLOCK_E": _block_e(experts),
                "BLOCK_K": BLOCK_K,
            }
            signature = {"x": f"*{dtype}", "weight": "*fp32", "out": "*fp32", "tokens": "i32", "x_stride": "i32"}
            forms.append(
                Variant(
                    name=f"router_logits/triton/{dtype}/d{width}-e{experts}",
                    kernel=_logits,
                    signature={**signature, **dict.fromkeys(constants, "constexpr")},
                    constexprs=constants,
                    divisible=frozenset({"x", "weight", "out"} | ({"x_stride"} if width % 16 == 0 else set())),
                    num_warps=WARPS,
                    wgmma=dtype == "bf16",
                )
            )
    return forms
