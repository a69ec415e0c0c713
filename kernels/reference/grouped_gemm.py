"""One product per expert over rows sorted by expert, by torch's own operations, and what every form of it checks."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def check_operands(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    scatter: torch.Tensor | None = None,
    *,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> tuple[int, int, int]:
    """Return ``(M, N, K)``; raise ValueError for shapes and dtypes that no form of the operation can take."""
    if x.ndim != 2 or weight.ndim != 3 or x.shape[1] != weight.shape[1] or not weight.numel():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}: they must be [M, K] and [E, K, N], "
            "and E, K and N not 0"
        )
    if x.dtype not in dtypes or weight.dtype != x.dtype:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"x is {x.dtype}, weight {weight.dtype}: they must be the same one of {names}")
    check_groups(weight.shape[0], weight.shape[2], x.dtype, offsets, bias)
    m = x.shape[0]
    for name, tensor, dtype in (("gate", gate, torch.float32), ("scatter", scatter, torch.int32)):
        if tensor is None:
            continue
        if tensor.shape != (m,) or not tensor.is_contiguous():
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it must be [{m}], contiguous")
        if tensor.dtype != dtype and not (tensor.dtype == x.dtype == torch.float64):
            raise ValueError(f"{name} is {tensor.dtype}: it must be {dtype}")
    check_offsets(offsets, m)
    return m, weight.shape[2], weight.shape[1]


def check_groups(experts: int, n: int, dtype: torch.dtype, offsets: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Raise ValueError for offsets and a bias that do not belong to ``experts`` products of width ``n``."""
    if offsets.shape != (experts + 1,) or offsets.dtype != torch.int32 or not offsets.is_contiguous():
        raise ValueError(
            f"offsets has shape {tuple(offsets.shape)} and is {offsets.dtype}: "
            f"it must be [{experts + 1}] int32, contiguous"
        )
    if bias is None:
        return
    if bias.shape != (experts, n) or not bias.is_contiguous():
        raise ValueError(f"bias has shape {tuple(bias.shape)}: it must be [{experts}, {n}], contiguous")
    if bias.dtype not in (dtype, torch.float32):
        raise ValueError(f"bias is {bias.dtype}: it must be {dtype} or float32")


def check_offsets(offsets: torch.Tensor, m: int) -> None:
    """Raise ValueError for offsets that do not divide ``m`` rows; those on another device are taken on trust."""
    if offsets.device.type == "cpu":
        _counts(offsets, m)


def _counts(offsets: torch.Tensor, m: int) -> list[int]:
    ends: list[int] = offsets.tolist()
    counts = [end - begin for begin, end in pairwise(ends)]
    if ends[0] != 0 or ends[-1] != m or min(counts) < 0:
        raise ValueError(f"offsets are {ends}: they must not decrease, and go from 0 to the number of rows, {m}")
    return counts


def grouped_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gelu: bool = False,
    gate: torch.Tensor | None = None,
    scatter: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute ``y[r] = epilogue(x[r] @ weight[e of r])``, for any device, and differentiable.

    Products are summed in float32, as torch does, and rounded to the dtype of ``x``; bias, GELU (tanh form) and gate
    follow in this order. On a CPU, products without a bias are one call of ``torch.nn.functional.grouped_mm`` where it
    takes them; it gives the same bits as the product of each expert by itself.

    Args:
        x: ``[M, K]``, bf16, fp16, fp32 or fp64, rows sorted by expert.
        weight: ``[E, K, N]`` in the dtype of ``x``.
        offsets: ``[E + 1]`` int32, expert ``e`` has the rows ``offsets[e]:offsets[e + 1]``, from 0 to ``M``.
        bias: ``[E, N]``, the dtype of ``x`` or float32, or nothing.
        gelu: whether GELU follows.
        gate: ``[M]`` float32, a weight for each row.
        scatter: ``[M]`` int32, a permutation: row ``r`` is stored as row ``scatter[r]``.

    Returns:
        ``[M, N]`` in the dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes break a rule above, or offsets do not divide the rows.
    """
    m, _, _ = check_operands(x, weight, offsets, bias, gate, scatter, dtypes=(*FLOATS, torch.float64))
    y = _products(x, weight, offsets, bias, m)
    if gelu:
        y = F.gelu(y, approximate="tanh")
    if gate is not None:
        y = (y * gate[:, None]).to(y.dtype)
    if scatter is not None:
        y = torch.empty_like(y).index_copy(0, scatter.long(), y)
    return y


def _products(
    x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, bias: torch.Tensor | None, m: int
) -> torch.Tensor:
    if bias is None and _fits_grouped_mm(x, weight):
        y: torch.Tensor = F.grouped_mm(x, weight, offs=offsets[1:])
        if y.requires_grad:  # its backward pass does not take the gradient of a sum, an expanded scalar
            y.register_hook(lambda grad: grad.contiguous())
        return y
    parts = zip(x.split(_counts(offsets, m)), weight.unbind(0), strict=True)
    if bias is None:
        return torch.cat([part @ matrix for part, matrix in parts])
    if bias.dtype == x.dtype:
        return torch.cat([torch.addmm(add, *part) for add, part in zip(bias.unbind(0), parts, strict=True)])
    sums = [add + (part @ matrix) for add, (part, matrix) in zip(bias.unbind(0), parts, strict=True)]
    return torch.cat(sums).to(x.dtype)


def _fits_grouped_mm(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether torch's grouped product takes these operands and is at least as fast here as separate products."""
    if x.device.type != "cpu" or x.dtype not in FLOATS or not x.shape[0] or not _has_grouped_mm(x.dtype):
        return False
    starts = [x.data_ptr(), weight.data_ptr()]
    strides = [stride * x.element_size() for stride in (x.stride(0), *weight.stride()) if stride != 1]
    return x.stride(1) == 1 and 1 in weight.stride()[1:] and not any(place % 16 for place in (*starts, *strides))


@cache
def _has_grouped_mm(dtype: torch.dtype) -> bool:
    """Tell whether this build of torch has a grouped product for CPUs: tried once, as no version number shows it."""
    try:
        ones = torch.ones(16, 16, dtype=dtype)
        y = F.grouped_mm(ones, torch.ones(2, 16, 16, dtype=dtype), offs=torch.tensor([0, 16], dtype=torch.int32))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool((y == 16).all())
