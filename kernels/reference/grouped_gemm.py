"""One product per expert over rows sorted by expert, by torch's own operations, and what every form of it checks.

On a GPU the offsets stay where they are. For bf16 on Hopper and Blackwell nothing waits for the device; elsewhere
torch's grouped product reads the offsets once by itself and multiplies expert by expert
(`aten/src/ATen/native/GroupedMMUtils.h`).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
MAX_GROUPS = 1023  # of torch's grouped product on a GPU
LINE = 16  # bytes: operands of torch's grouped product start at multiples of it, and so do their rows


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
    follow in this order. They are one call of ``torch.nn.functional.grouped_mm`` where it takes them: on a GPU always
    but for fp64, on a CPU without a bias, where it gives the same bits as the product of each expert by itself.

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
    experts, n = weight.shape[0], weight.shape[2]
    if experts == 1 or not m:
        counts = [m] + [0] * (experts - 1)
    elif _on_gpu(x, weight):
        y = _grouped_mm(*_aligned(x, weight), offsets)
        y = y if y.shape[1] == n else y[:, :n].contiguous()
        return y if bias is None else _with_bias(y, offsets, bias)
    elif bias is None and _fits_grouped_mm(x, weight):
        return _grouped_mm(x, weight, offsets)
    else:
        counts = _counts(offsets, m)
    parts = zip(x.split(counts), weight.unbind(0), strict=True)
    if bias is None:
        return torch.cat([part @ matrix for part, matrix in parts])
    if bias.dtype == x.dtype:
        return torch.cat([torch.addmm(add, *part) for add, part in zip(bias.unbind(0), parts, strict=True)])
    sums = [add + (part @ matrix) for add, (part, matrix) in zip(bias.unbind(0), parts, strict=True)]
    return torch.cat(sums).to(x.dtype)


def _grouped_mm(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = F.grouped_mm(x, weight, offs=offsets[1:])
    if y.requires_grad:  # its backward pass does not take the gradient of a sum, an expanded scalar
        y.register_hook(lambda grad: grad.contiguous())
    return y


def _with_bias(y: torch.Tensor, offsets: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Add to each row the bias of its expert, which is found on the device: ``[M, N]`` in the dtype of ``y``."""
    rows = torch.arange(y.shape[0], dtype=torch.int32, device=y.device)
    expert = torch.searchsorted(offsets[1:], rows, right=True, out_int32=True)
    added = bias.index_select(0, expert)
    return added.add_(y) if added.dtype == y.dtype else (added + y).to(y.dtype)


def _on_gpu(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether torch's grouped product takes these operands on their device, if need be padded by `_aligned`."""
    return (
        x.device.type == "cuda"
        and x.dtype in FLOATS
        and weight.shape[0] <= MAX_GROUPS
        and getattr(F, "grouped_mm", None) is not None
    )


def _aligned(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the operands with K and N a multiple of 16 bytes, filled up with zeros, and rows that start at such.

    Shapes of real models have nothing to fill up; a padded weight is a copy in every call.
    """
    lanes = LINE // x.element_size()
    more_k, more_n = -weight.shape[1] % lanes, -weight.shape[2] % lanes
    if more_k or x.stride(1) != 1 or x.stride(0) % lanes or x.storage_offset() % lanes:
        x = F.pad(x, (0, more_k)) if more_k else x.clone(memory_format=torch.contiguous_format)
    strides = [stride for stride in weight.stride() if stride != 1]
    tidy = 1 in weight.stride()[1:] and not any(place % lanes for place in (*strides, weight.storage_offset()))
    if more_k or more_n:
        weight = F.pad(weight, (0, more_n, 0, more_k))
    elif not tidy:
        weight = weight.clone(memory_format=torch.contiguous_format)
    return x, weight


def _fits_grouped_mm(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether torch's grouped product takes these operands on a CPU, and is there as fast as separate products."""
    if x.device.type != "cpu" or x.dtype not in FLOATS or not _has_grouped_mm(x.dtype):
        return False
    starts = [x.data_ptr(), weight.data_ptr()]
    strides = [stride * x.element_size() for stride in (x.stride(0), *weight.stride()) if stride != 1]
    return x.stride(1) == 1 and 1 in weight.stride()[1:] and not any(place % LINE for place in (*starts, *strides))


@cache
def _has_grouped_mm(dtype: torch.dtype) -> bool:
    """Tell whether this build of torch has a grouped product for CPUs: tried once, as no version number shows it."""
    try:
        ones = torch.ones(16, 16, dtype=dtype)
        y = F.grouped_mm(ones, torch.ones(2, 16, 16, dtype=dtype), offs=torch.tensor([0, 16], dtype=torch.int32))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool((y == 16).all())
