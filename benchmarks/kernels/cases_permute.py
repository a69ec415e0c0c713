"""Cases of the copy of tokens into the order of their experts, whose results must be exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from zoetrope.benchmarks.kernels.cases import FP8_LIMIT, LIMITS, KernelCase, KernelInputs, Results
from zoetrope.kernels.select.proofs import dtype_name
from zoetrope.kernels.types.permutation import Permutation


def permute_cases(inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield cases of tokens that all have as many rows, and of tokens with 0 to that many, as a rank gets them."""
    sizes = [(7, 2, 32)] if inputs.tiny else [(1, 8, 3072), (6_000, 8, 3072), (3_000, 8, 2048), (2_000, 2, 5120)]
    for dtype in (*inputs.dtypes, torch.float8_e4m3fn):
        for tokens, choices, width in sizes:
            for ragged in (False, True):
                yield _case(inputs, dtype, tokens, choices, width, ragged)


def _case(inputs: KernelInputs, dtype: torch.dtype, tokens: int, choices: int, width: int, ragged: bool) -> KernelCase:
    rows = _rows(inputs, tokens, choices, ragged)
    x = inputs.randn(tokens, width).to(dtype)
    scale = inputs.randn(tokens) if dtype.itemsize == 1 else None
    function = inputs.function("permute_rows", "triton", "permute_rows")

    def run() -> Results:
        result: Any = function(x, rows, scale)
        return result if isinstance(result, tuple) else (result,)

    def error(results: Results) -> float:
        # On the CPU, where a wrong index raises an exception instead of killing the process.
        token = rows.token.cpu().long()
        values = results[0].cpu().view(torch.uint8), x.cpu().view(torch.uint8)[token]
        scales = [] if scale is None else [(results[1].cpu(), scale.cpu()[token])]
        return 0.0 if all(torch.equal(got, want) for got, want in (values, *scales)) else float("inf")

    limit = LIMITS.get(dtype, FP8_LIMIT)
    name = f"{tokens} tokens of {width}, {'up to ' if ragged else ''}{choices} each"
    return KernelCase("permute_rows", "triton", dtype_name(dtype), None, name, limit, run, error)


def _rows(inputs: KernelInputs, tokens: int, choices: int, ragged: bool) -> Permutation:
    count = inputs.integers(choices + 1, tokens) if ragged else torch.full((tokens,), choices, dtype=torch.int32)
    known = torch.arange(choices, device=inputs.device)[None, :] < count.to(inputs.device)[:, None]
    total = int(known.sum())
    position = torch.full((tokens, choices), -1, dtype=torch.int32, device=inputs.device)
    position[known] = inputs.permutation(total)
    token = torch.zeros(total, dtype=torch.int32, device=inputs.device)
    numbers = torch.arange(tokens, dtype=torch.int32, device=inputs.device)
    token[position[known].long()] = numbers[:, None].expand(tokens, choices)[known]
    nothing = token[:0]
    return Permutation(token, nothing, nothing, nothing, position)
