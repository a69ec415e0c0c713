"""Routing to a full `Permutation` in two launches: no sort, no atomics, nothing read by the host.

Launch 1 cuts the tokens into equal spans, one for each program. It picks a tile's experts by taking the largest
remaining score again and again, counts them, and writes for each choice its expert and its rank: how many earlier
tokens of the span chose that expert. A token chooses an expert once at most, so ranks come from sums over tokens
alone. Launch 2 sums the spans' counts to the first row of every (span, expert), and writes each choice to that row
plus its rank. That is a counting sort, stable and the same for any number of programs. Two kernels with a histogram
between them is how counting and radix sorts are cut for GPUs in general (Satish et al., IPDPS 2009); the gate is
DeepSeek-V3's (arXiv 2412.19437).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import multiprocessors, on_device, require_device
from zoetrope.kernels.gpu.tiles import RowTile, row_key, row_tile, tuned
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.types.permutation import Permutation

MAX_EXPERTS = 256
MAX_CHOICES = 16
MAX_ROWS = 2**31 - 2**16  # sorted rows, with room for the last tile
MAX_SPAN = 1 << 22  # tokens of a program: a rank and the number of an expert (8 bits) share 31 bits
SPANS = 4  # programs of launch 1 for each multiprocessor, at most
NEVER = tl.constexpr(-(2**31))  # below the key of minus infinity


@triton.jit
def _sortable(score):
    """Map floats to int32 numbers in the same order: NaN like minus infinity, -0 like 0."""
    score = tl.where(score == score, score, float("-inf"))
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _choose(
    logits,
    correction,
    choice,
    weight,
    counts,
    tokens,
    span,
    logits_stride,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    PICKS: tl.constexpr,
    SIGMOID: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Choose experts, gates and ranks of a span, ``PICKS`` of each group; choice ``[N, k]`` is ``rank * 256 +
    expert``."""
    group = tl.arange(0, BLOCK_GROUPS)[None, :, None]
    member = tl.arange(0, BLOCK_SIZE)[None, None, :]
    real = (group < GROUPS) & (member < SIZE)
    expert = group * SIZE + member
    steer = tl.load(correction + expert, mask=real, other=0.0)
    seen = tl.zeros([1, BLOCK_GROUPS, BLOCK_SIZE], tl.int32)
    begin = tl.program_id(0) * span
    for start in range(begin, tl.minimum(begin + span, tokens), ROWS):
        token = start + tl.arange(0, ROWS)[:, None, None]
        inside = (token < tokens) & real
        score = tl.load(logits + token.to(tl.int64) * logits_stride + expert, mask=inside, other=0.0)
        if SIGMOID:
            score = 1.0 / (1.0 + tl.exp(-score))
        key = tl.where(real, _sortable(score + steer), NEVER)
        pick = tl.full([ROWS, BLOCK_GROUPS, BLOCK_SIZE], -1, tl.int32)
        for j in tl.static_range(PICKS):
            best = tl.max(key, 2, keep_dims=True)
            first = tl.min(tl.where(key == best, member, BLOCK_SIZE), 2, keep_dims=True)
            pick = tl.where(member == first, j, pick)
            key = tl.where(member == first, NEVER, key)
        chosen = inside & (pick >= 0)
        ones = chosen.to(tl.int32)
        rank = seen + tl.cumsum(ones, 0) - ones
        seen += tl.sum(ones, 0, keep_dims=True)
        place = token.to(tl.int64) * (GROUPS * PICKS) + group * PICKS + pick
        tl.store(choice + place, rank * 256 + expert, mask=chosen)
        if weight is not None:
            total = tl.sum(tl.where(chosen, score, 0.0), 2, keep_dims=True)
            total = tl.where(total < 1e-9, 1e-9, total)  # NaN stays NaN
            tl.store(weight + place, score / total, mask=chosen)
    here = tl.program_id(0) * (GROUPS * SIZE) + expert
    tl.store(counts + here, seen, mask=real)


@triton.jit
def _place(
    choice,
    weight,
    span_counts,
    token_out,
    gate_out,
    counts,
    offsets,
    position,
    tokens,
    span,
    spans,
    spans_each,
    EXPERTS: tl.constexpr,
    K: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
    BLOCK_SPANS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the sorted rows of ``spans_each`` spans."""
    program = tl.program_id(0)
    first = program * spans_each
    expert = tl.arange(0, BLOCK_EXPERTS)
    real = expert < EXPERTS
    total = tl.zeros([BLOCK_EXPERTS], tl.int32)
    before = tl.zeros([BLOCK_EXPERTS], tl.int32)
    for start in range(0, spans, BLOCK_SPANS):
        number = start + tl.arange(0, BLOCK_SPANS)
        mask = (number < spans)[:, None] & real[None, :]
        count = tl.load(span_counts + number[:, None] * EXPERTS + expert[None, :], mask=mask, other=0)
        total += tl.sum(count, 0)
        before += tl.sum(tl.where((number < first)[:, None], count, 0), 0)
    ends = tl.cumsum(total, 0)
    if program == 0:
        tl.store(counts + expert, total, mask=real)
        tl.store(offsets + expert, ends - total, mask=real)
        tl.store(offsets + EXPERTS + tl.zeros_like(expert), ends, mask=expert == EXPERTS - 1)
    row = ends - total + before  # of the next choice of each expert
    for number in range(first, tl.minimum(first + spans_each, spans)):
        begin = number * span * K
        end = tl.minimum((number + 1) * span, tokens) * K
        for start in range(begin, end, BLOCK):
            entry = start + tl.arange(0, BLOCK)
            inside = entry < end
            packed = tl.load(choice + entry, mask=inside, other=0)
            sorted_row = tl.gather(row, packed & 255, 0) + (packed >> 8)
            gate = tl.full([BLOCK], 1.0, tl.float32)
            if weight is not None:
                gate = tl.load(weight + entry, mask=inside, other=0.0)
            tl.store(token_out + sorted_row, entry // K, mask=inside)
            tl.store(gate_out + sorted_row, gate, mask=inside)
            tl.store(position + entry, sorted_row, mask=inside)
        row += tl.load(span_counts + number * EXPERTS + expert, mask=real, other=0)


def route_top_k(logits: torch.Tensor, correction: torch.Tensor, k: int, *, tile: RowTile | None = None) -> Permutation:
    """Choose by a sigmoid gate; a load-balance correction steers the choice, not the weight (DeepSeek-V3, 2412.19437).

    Args:
        logits: ``[N, E]`` float32, E up to 256; rows may be further apart than E. correction: ``[E]`` float32.
        k: experts per token, 1 to E and at most 16.
        tile: instead of the tuned or default one (the tuner and the tests).

    Returns:
        The rows of all choices sorted by expert. ``position[n, j]`` has the choices of a token in descending order of
        score; of equal scores the lower expert number comes first, and NaN counts as minus infinity. The gates of a
        token add up to 1.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernels cannot take, or a ``k`` out of its limits.
    """
    device = _check(logits, correction)
    if not 1 <= k <= min(logits.shape[1], MAX_CHOICES):
        raise ValueError(f"k is {k}: it must be 1 to {min(logits.shape[1], MAX_CHOICES)}")
    return _route(logits, correction, 1, k, True, device, tile)


def route_grouped_top1(
    logits: torch.Tensor, correction: torch.Tensor, groups: int, *, tile: RowTile | None = None
) -> Permutation:
    """Choose one expert of every group with weight 1: the argmax of ``logits + correction`` within the group.

    Experts ``g * R .. (g + 1) * R - 1`` form group ``g``.

    Args:
        logits: ``[N, E]`` float32, E up to 256; rows may be further apart than E. correction: ``[E]`` float32.
        groups: a divisor of E, at most 16.
        tile: instead of the tuned or default one (the tuner and the tests).

    Returns:
        The rows of all choices sorted by expert; ``position[n, g]`` is the choice of group ``g``. Of equal scores the
        lower expert number wins, and NaN counts as minus infinity.

    Raises:
        ValueError: a shape, dtype, device or stride that the kernels cannot take, or ``groups`` out of its limits.
    """
    device = _check(logits, correction)
    if not 1 <= groups <= MAX_CHOICES or logits.shape[1] % groups:
        raise ValueError(f"groups is {groups}: it must divide {logits.shape[1]} experts and be 1 to {MAX_CHOICES}")
    return _route(logits, correction, groups, 1, False, device, tile)


def _route(
    logits: torch.Tensor,
    correction: torch.Tensor,
    groups: int,
    picks: int,
    sigmoid: bool,
    device: torch.device,
    tile: RowTile | None,
) -> Permutation:
    tokens, experts = logits.shape
    size, k = experts // groups, groups * picks
    block_groups, block_size = triton.next_power_of_2(groups), triton.next_power_of_2(size)
    if tile is None:
        tile = tuned(row_key("routing", experts), row_tile(block_groups * block_size), device)
    processors = multiprocessors(device)
    span = tile.rows * triton.cdiv(triton.cdiv(tokens, tile.rows), SPANS * processors)
    if tokens * k > MAX_ROWS or span > MAX_SPAN:
        raise ValueError(f"logits is {tuple(logits.shape)} for {k} choices: sorted rows are counted in int32")
    if tokens == 0:
        none = torch.zeros(0, dtype=torch.int32, device=device)
        zeros = torch.zeros(experts + 1, dtype=torch.int32, device=device)
        return Permutation(none, none.float(), zeros[:experts].clone(), zeros, none.view(0, k))
    spans = triton.cdiv(tokens, span)
    choice, position, token = (torch.empty(tokens * k, dtype=torch.int32, device=device) for _ in range(3))
    gate = torch.empty(tokens * k, dtype=torch.float32, device=device)
    weight = torch.empty_like(gate) if sigmoid else None
    span_counts = torch.empty(spans, experts, dtype=torch.int32, device=device)
    counts = torch.empty(experts, dtype=torch.int32, device=device)
    offsets = torch.empty(experts + 1, dtype=torch.int32, device=device)
    with on_device(device):
        _choose[(spans,)](
            logits,
            correction,
            choice,
            weight,
            span_counts,
            tokens,
            span,
            logits.stride(0),
            GROUPS=groups,
            SIZE=size,
            PICKS=picks,
            SIGMOID=sigmoid,
            ROWS=tile.rows,
            BLOCK_GROUPS=block_groups,
            BLOCK_SIZE=block_size,
            num_warps=tile.num_warps,
        )
    spans_each = triton.cdiv(spans, processors)
    with on_device(device):
        _place[(triton.cdiv(spans, spans_each),)](
            choice,
            weight,
            span_counts,
            token,
            gate,
            counts,
            offsets,
            position,
            tokens,
            span,
            spans,
            spans_each,
            EXPERTS=experts,
            K=k,
            **_place_blocks(experts),
            num_warps=PLACE_WARPS,
        )
    return Permutation(token, gate, counts, offsets, position.view(tokens, k))


PLACE_WARPS = 8


def _place_blocks(experts: int) -> dict[str, int]:
    padded = triton.next_power_of_2(experts)
    return {"BLOCK_EXPERTS": padded, "BLOCK_SPANS": max(1, 8192 // padded), "BLOCK": 1024}


def _check(logits: torch.Tensor, correction: torch.Tensor) -> torch.device:
    if logits.ndim != 2 or not 1 <= logits.shape[1] <= MAX_EXPERTS:
        raise ValueError(f"logits is {tuple(logits.shape)}: it must be [N, E] with E from 1 to {MAX_EXPERTS}")
    if correction.shape != logits.shape[1:]:
        raise ValueError(f"correction is {tuple(correction.shape)}: it must be {tuple(logits.shape[1:])}")
    for name, tensor in {"logits": logits, "correction": correction}.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}: it must be float32")
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"{name} has strides {tensor.stride()}: its last dimension must be contiguous")
    return require_device(logits=logits, correction=correction)


def variants() -> list[Variant]:
    """List both launches for 80 experts in 8 groups, 128 experts and top-8, and 16 experts and top-2."""
    forms: list[Variant] = []
    for groups, size, picks, sigmoid in ((8, 10, 1, False), (1, 128, 8, True), (1, 16, 2, True), (1, 256, 8, True)):
        name = f"e{size}-top{picks}" if sigmoid else f"e{groups * size}-groups{groups}"
        experts, weight = groups * size, "*fp32" if sigmoid else "constexpr"
        block_groups, block_size = triton.next_power_of_2(groups), triton.next_power_of_2(size)
        tile = row_tile(block_groups * block_size)
        constants = {"GROUPS": groups, "SIZE": size, "PICKS": picks, "SIGMOID": sigmoid, "ROWS": tile.rows}
        constants |= {"BLOCK_GROUPS": block_groups, "BLOCK_SIZE": block_size}
        types = {"logits": "*fp32", "correction": "*fp32", "choice": "*i32", "weight": weight, "counts": "*i32"}
        forms.append(_variant(f"routing/triton/choose-{name}", _choose, types, constants, tile.num_warps))
        constants = {"EXPERTS": experts, "K": groups * picks, **_place_blocks(experts)}
        types = {"choice": "*i32", "weight": weight, "span_counts": "*i32", "token_out": "*i32", "gate_out": "*fp32"}
        types |= dict.fromkeys(("counts", "offsets", "position"), "*i32")
        forms.append(_variant(f"routing/triton/place-{name}", _place, types, constants, PLACE_WARPS))
    return forms


def _variant(name: str, kernel: object, types: dict[str, str], constants: dict[str, int], warps: int) -> Variant:
    names: list[str] = kernel.arg_names  # type: ignore[attr-defined]
    pointers = {arg for arg, type_ in types.items() if type_ != "constexpr"}
    return Variant(
        name=name,
        kernel=kernel,
        signature={arg: types.get(arg, "constexpr" if arg in constants else "i32") for arg in names},
        constexprs={**constants, **{arg: None for arg in types if arg not in pointers}},
        divisible=frozenset(pointers | ({"logits_stride"} & {*names})),
        num_warps=warps,
    )
