"""The bookkeeping of expert parallelism in five launches and a running sum, where plain torch takes some seventy.

Departures: launch 1 marks which token goes to which rank, a running sum over these marks gives every row its place, and
launch 2 writes all that leaves. Both find the rank of a choice by comparing its sorted position with the first
position of each rank. Arrivals: launch 1, a single program, turns counts by (rank, expert) into where these blocks
begin before and after they are sorted by (expert, rank); launch 2 looks up the block of each pair by bisection and
moves it. No sort, no atomics, nothing read by the host.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from zoetrope.kernels.gpu.launch import on_device, require_device
from zoetrope.kernels.gpu.variant import Variant
from zoetrope.kernels.types.permutation import Permutation

MAX_CHOICES = 16
MAX_RANKS = 64
MAX_EXPERTS = 1024
MAX_CELLS = 2**31 - 2**16
CELLS = 1024  # comparisons of two choices in a program
PAIRS = 512  # pairs of a program
WARPS = 4


@triton.jit
def _choices(position, offsets, token, here, experts, K: tl.constexpr, RANKS: tl.constexpr, KEYS: tl.constexpr):
    """Return for some tokens' choices ``[ROWS, KEYS]``: which are real, their pairs, ranks, and index on the rank."""
    choice = tl.arange(0, KEYS)[None, :]
    real = here[:, None] & (choice < K)
    pair = tl.load(position + token[:, None] * K + choice, mask=real, other=0)
    rank = tl.zeros_like(pair)
    for r in range(1, RANKS):
        rank += (pair >= tl.load(offsets + r * experts)).to(tl.int32)
    rank = tl.where(real, rank, -1 - choice)  # unlike any other
    same = rank[:, :, None] == rank[:, None, :]
    earlier = choice[:, None, :] < choice[:, :, None]
    ordinal = tl.sum((same & earlier).to(tl.int32), 2)
    return real, pair, rank, ordinal


@triton.jit
def _mark(
    position,
    offsets,
    hit,
    most,
    tokens,
    experts,
    K: tl.constexpr,
    RANKS: tl.constexpr,
    KEYS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write ``hit`` [RANKS, N]: 1 where a token goes; ``most`` [programs]: a token's most choices on one rank."""
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = token < tokens
    real, _, rank, ordinal = _choices(position, offsets, token, here, experts, K, RANKS, KEYS)
    for r in range(RANKS):
        tl.store(hit + r * tokens + token, tl.max((rank == r).to(tl.int32), 1), mask=here)
    tl.store(most + tl.program_id(0), tl.max(tl.max(tl.where(real, ordinal + 1, 0), 1), 0))


@triton.jit
def _leave(
    position,
    offsets,
    gate,
    ends,
    most,
    counts,
    pairs,
    token_of,
    home,
    tokens,
    experts,
    K: tl.constexpr,
    RANKS: tl.constexpr,
    KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """Write all that leaves; ``ends`` [RANKS * N]: the running sum of ``hit``."""
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = token < tokens
    real, pair, rank, ordinal = _choices(position, offsets, token, here, experts, K, RANKS, KEYS)
    place = tl.load(ends + rank * tokens + token[:, None], mask=real, other=1) - 1
    begin = tl.load(ends + rank * tokens - 1, mask=real & (rank > 0), other=0)
    weight = tl.load(gate + pair, mask=real, other=0.0)
    tl.store(pairs + pair * 3, place - begin, mask=real)
    tl.store(pairs + pair * 3 + 1, ordinal, mask=real)
    tl.store(pairs + pair * 3 + 2, weight.to(tl.int32, bitcast=True), mask=real)
    first = real & (ordinal == 0)
    lower = first[:, None, :] & (rank[:, None, :] < rank[:, :, None])
    column = tl.sum(lower.to(tl.int32), 2)
    tl.store(token_of + place, token[:, None] + tl.zeros_like(place), mask=first)
    tl.store(home + token[:, None] * WIDTH + column, place, mask=first)
    behind = tl.arange(0, KEYS)[None, :]
    goes = tl.sum(first.to(tl.int32), 1)[:, None]
    nothing = tl.full([ROWS, KEYS], -1, tl.int32)
    tl.store(home + token[:, None] * WIDTH + behind, nothing, mask=here[:, None] & (behind >= goes) & (behind < WIDTH))
    if tl.program_id(0) == 0:
        largest = tl.zeros([256], tl.int32)
        for start in range(0, tl.num_programs(0), 256):
            number = start + tl.arange(0, 256)
            largest = tl.maximum(largest, tl.load(most + number, mask=number < tl.num_programs(0), other=0))
        expert = tl.arange(0, EXPERTS)
        for r in range(RANKS):
            line = counts + r * (experts + 3)
            begins = tl.load(offsets + r * experts + expert, mask=expert < experts, other=0)
            stops = tl.load(offsets + r * experts + expert + 1, mask=expert < experts, other=0)
            tl.store(line + expert, stops - begins, mask=expert < experts)
            tl.store(line + experts, tl.load(offsets + (r + 1) * experts) - tl.load(offsets + r * experts))
            before = tl.load(ends + r * tokens - 1, mask=r > 0, other=0)
            tl.store(line + experts + 1, tl.load(ends + (r + 1) * tokens - 1) - before)
            tl.store(line + experts + 2, tl.max(largest, 0))


@triton.jit
def _blocks(
    counts,
    begins,
    shift,
    first,
    offsets,
    ranks,
    experts,
    stride,
    RANKS: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """Return where each block (rank, expert) begins as received, and by how far it moves; each rank's first row."""
    rank, expert = tl.arange(0, RANKS), tl.arange(0, EXPERTS)
    real = (rank < ranks)[:, None] & (expert < experts)[None, :]
    cell = rank[:, None] * experts + expert[None, :]
    count = tl.load(counts + rank[:, None] * stride + expert[None, :], mask=real, other=0)
    of_rank, of_expert = tl.sum(count, 1), tl.sum(count, 0)
    came = tl.cumsum(count, 1) - count + (tl.cumsum(of_rank, 0) - of_rank)[:, None]
    wanted = tl.cumsum(count, 0) - count + (tl.cumsum(of_expert, 0) - of_expert)[None, :]
    tl.store(begins + cell, came, mask=real)
    tl.store(shift + cell, wanted - came, mask=real)
    tl.store(offsets + 1 + expert, tl.cumsum(of_expert, 0), mask=expert < experts)
    tl.store(offsets, 0)
    sizes = tl.load(counts + rank * stride + experts + 1, mask=rank < ranks, other=0)
    tl.store(first + rank, tl.cumsum(sizes, 0) - sizes, mask=rank < ranks)


@triton.jit
def _arrive(
    pairs,
    begins,
    shift,
    first,
    rows_out,
    gate_out,
    position,
    total,
    blocks,
    experts,
    most,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move every pair to its place by expert."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = pair < total
    block = tl.zeros([BLOCK], tl.int32)  # the last one that begins at or before the pair
    for bit in tl.static_range(BITS):
        probe = block + (1 << (BITS - 1 - bit))
        known = here & (probe < blocks)
        begin = tl.load(begins + probe, mask=known, other=0)
        block = tl.where(known & (begin <= pair), probe, block)
    place = pair + tl.load(shift + block, mask=here, other=0)
    row = tl.load(first + block // experts, mask=here, other=0) + tl.load(pairs + pair * 3, mask=here, other=0)
    ordinal = tl.load(pairs + pair * 3 + 1, mask=here, other=0)
    weight = tl.load(pairs + pair * 3 + 2, mask=here, other=0)
    tl.store(rows_out + place, row, mask=here)
    tl.store(gate_out + place, weight.to(tl.float32, bitcast=True), mask=here)
    tl.store(position + row * most + ordinal, place, mask=here)


Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def dispatch_tokens(rows: Permutation, ranks: int) -> Tensors:
    """Assign tokens to ranks.

    Args:
        rows: of at most 16 choices of a token and 1,024 experts; int32 and float32, contiguous.
        ranks: at most 64, a divisor of the experts.

    Returns:
        The fields of `kernels.ops.dispatch.Departures`; ``tokens`` behind the last row is not written.

    Raises:
        ValueError: a shape, dtype or device that the kernels cannot take.
    """
    (tokens, choices), experts = rows.position.shape, rows.counts.shape[0]
    if not 1 <= choices <= MAX_CHOICES:
        raise ValueError(f"rows.position is {tuple(rows.position.shape)}: it must be [N, 1 to {MAX_CHOICES}]")
    if not 1 <= ranks <= MAX_RANKS or experts % ranks or experts > MAX_EXPERTS:
        raise ValueError(
            f"ranks is {ranks}: it must be 1 to {MAX_RANKS} and divide {experts} experts, at most {MAX_EXPERTS}"
        )
    if tokens * max(3 * choices, ranks) > MAX_CELLS:
        raise ValueError(f"rows.position is {tuple(rows.position.shape)} for {ranks} ranks: cells are counted in int32")
    expected = {"position": torch.int32, "offsets": torch.int32, "gate": torch.float32}
    for name, dtype in expected.items():
        tensor = getattr(rows, name)
        if tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(f"rows.{name} is {tensor.dtype}: it must be {dtype} and contiguous")
    device = require_device(position=rows.position, offsets=rows.offsets, gate=rows.gate)
    own, width = experts // ranks, min(choices, ranks)

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.int32, device=device)

    if tokens == 0:
        return torch.zeros(ranks, own + 3, dtype=torch.int32, device=device), empty(0, 3), empty(0), empty(0, width)
    keys = triton.next_power_of_2(choices)
    step = max(1, CELLS // keys**2)
    programs = triton.cdiv(tokens, step)
    hit, most, counts = empty(ranks * tokens), empty(programs), empty(ranks, own + 3)
    pairs, token_of, home = empty(tokens * choices, 3), empty(tokens * width), empty(tokens, width)
    shape = {"K": choices, "RANKS": ranks, "KEYS": keys, "ROWS": step}
    with on_device(device):
        _mark[(programs,)](rows.position, rows.offsets, hit, most, tokens, own, **shape, num_warps=WARPS)
    ends = hit.cumsum(0, dtype=torch.int32)
    with on_device(device):
        _leave[(programs,)](
            rows.position,
            rows.offsets,
            rows.gate,
            ends,
            most,
            counts,
            pairs,
            token_of,
            home,
            tokens,
            own,
            **shape,
            WIDTH=width,
            EXPERTS=triton.next_power_of_2(own),
            num_warps=WARPS,
        )
    return counts, pairs, token_of, home


def arrange_arrivals(counts: torch.Tensor, pairs: torch.Tensor, rows: int, most: int) -> Tensors:
    """Sort pairs by expert, those of an expert by rank and in the order of arrival.

    Args:
        counts: ``[ranks, E + 3]`` int32, as `dispatch_tokens` made them, of each rank for this one; rows of it may be
            further apart. pairs: ``[M, 3]`` int32, contiguous. rows, most: as in `kernels.ops.dispatch`.

    Returns:
        The fields of `kernels.ops.dispatch.Arrivals`.

    Raises:
        ValueError: a shape, dtype or device that the kernels cannot take.
    """
    ranks, experts, total = counts.shape[0], counts.shape[1] - 3, pairs.shape[0]
    if ranks > MAX_RANKS or ranks * experts > MAX_EXPERTS:
        raise ValueError(f"counts is {tuple(counts.shape)}: at most {MAX_RANKS} ranks and {MAX_EXPERTS} experts in all")
    if counts.dtype != torch.int32 or counts.stride(1) != 1:
        raise ValueError(f"counts is {counts.dtype}: it must be int32, its last dimension contiguous")
    if pairs.dtype != torch.int32 or not pairs.is_contiguous():
        raise ValueError(f"pairs is {pairs.dtype}: it must be int32 and contiguous")
    if max(3 * total, rows * most) > MAX_CELLS:
        raise ValueError(f"{total} pairs about {rows} rows, {most} about one: cells are counted in int32")
    device = require_device(counts=counts, pairs=pairs)
    tables = torch.empty(2 * ranks * experts + ranks, dtype=torch.int32, device=device)
    begins, shift, first = tables.split([ranks * experts, ranks * experts, ranks])
    offsets = torch.empty(experts + 1, dtype=torch.int32, device=device)
    rows_out = torch.empty(total, dtype=torch.int32, device=device)
    gate = torch.empty(total, dtype=torch.float32, device=device)
    position = torch.full((rows, most), -1, dtype=torch.int32, device=device)
    with on_device(device):
        _blocks[(1,)](
            counts,
            begins,
            shift,
            first,
            offsets,
            ranks,
            experts,
            counts.stride(0),
            RANKS=triton.next_power_of_2(ranks),
            EXPERTS=triton.next_power_of_2(experts),
            num_warps=WARPS,
        )
    if total:
        with on_device(device):
            _arrive[(triton.cdiv(total, PAIRS),)](
                pairs,
                begins,
                shift,
                first,
                rows_out,
                gate,
                position,
                total,
                ranks * experts,
                experts,
                most,
                BITS=(ranks * experts - 1).bit_length(),
                BLOCK=PAIRS,
                num_warps=WARPS,
            )
    return offsets, rows_out, gate, position


def variants() -> list[Variant]:
    """List all launches for 80 experts in 8 groups on 4 and 8 ranks, and 128 experts and top-8 on 8 and 64."""
    forms: list[Variant] = []
    for experts, choices, ranks in ((80, 8, 4), (80, 8, 8), (128, 8, 8), (128, 8, 64), (16, 2, 2)):
        own, keys = experts // ranks, triton.next_power_of_2(choices)
        name = f"e{experts}-k{choices}-ranks{ranks}"
        shape = {"K": choices, "RANKS": ranks, "KEYS": keys, "ROWS": max(1, CELLS // keys**2)}
        wide = {**shape, "WIDTH": min(choices, ranks), "EXPERTS": triton.next_power_of_2(own)}
        padded = {"RANKS": triton.next_power_of_2(ranks), "EXPERTS": triton.next_power_of_2(own)}
        moved = {"BITS": (experts - 1).bit_length(), "BLOCK": PAIRS}
        for kernel, title, constants in (
            (_mark, "mark", shape),
            (_leave, "leave", wide),
            (_blocks, "blocks", padded),
            (_arrive, "arrive", moved),
        ):
            forms.append(_variant(f"dispatch/triton/{title}-{name}", kernel, constants))
    return forms


SCALARS = frozenset({"tokens", "experts", "ranks", "stride", "total", "blocks", "most"})


def _variant(name: str, kernel: object, constants: dict[str, int]) -> Variant:
    names: list[str] = kernel.arg_names  # type: ignore[attr-defined]
    scalars = SCALARS - ({"most"} if "offsets" in names else set())  # a table for departures, a number for arrivals
    floats = {"gate", "gate_out"}
    signature = {
        arg: "constexpr" if arg in constants else "i32" if arg in scalars else "*fp32" if arg in floats else "*i32"
        for arg in names
    }
    # The tables of arrivals are parts of one tensor, which may begin at any address.
    aligned = {arg for arg, kind in signature.items() if kind.startswith("*")} - {"shift", "first", "begins"}
    return Variant(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs=constants,
        divisible=frozenset(aligned),
        num_warps=WARPS,
    )
