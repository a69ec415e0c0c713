"""The code of `kernels.gpu.attention_gluon`: a producer warp and two warpgroups of consumers.

A program has 128 queries of one head, 64 to a warpgroup, and walks the tiles of its sequence's keys. One warp brings
tiles of keys and values by the tensor memory accelerator (TMA). A warpgroup issues the scores of tile ``i`` and the
weighted values of tile ``i - 1`` together, and computes the exponentials of ``i`` while the latter run; the two
warpgroups also overlap each other.

**Barriers.** Tile ``i`` lies in buffer ``stage_of(i)`` of keys and of values. Each buffer has a full barrier (one
arrival: the producer's, complete when the bytes are there) and a free barrier (two arrivals: one of each warpgroup).
A wait for parity ``p`` passes when the last completed phase has parity ``p``, and on a fresh barrier for 1. So
consumers await a filling of a buffer with ``lap_of`` (the parity of the number of fillings before it), and the
producer awaits the release of the filling before with ``lap_of ^ 1``, which passes on the first lap. No barrier gets
a whole phase ahead of a waiter: the next filling needs the release of this one. Nor is there a deadlock: the producer
issues K0 V0 K1 V1 ..., and what it awaits for ``V[i]`` (the release of ``V[i - STAGES]``, in step ``i - STAGES + 1``)
needs nothing later than ``K[i - STAGES + 1]``, issued before. All copies are awaited before a program ends. With
PINGPONG the warpgroups take turns to issue products: phase ``i`` of ``turn`` completes when a warpgroup may issue
step ``i``; the first gets its first turn in advance, every other turn comes from the other's issue.

**Neighbours.** A tile of keys may reach into the next sequence. Its scores are masked, but its values are multiplied
with 0, and 0 times NaN is NaN. So the producer awaits the last, partial tile of values on a barrier of its own,
writes zeros over the rows behind the end, makes that visible to the matrix units (the proxy fence) and only then
passes the tile on. Rows of queries behind the end are computed and not stored.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# Of a thread. Three groups of four warps share what 3 * 168 gives; with fewer for the producer, it spills.
CONSUMER_REGISTERS = gl.constexpr(224)
PRODUCER_REGISTERS = gl.constexpr(56)


@gluon.jit
def stage_of(i, STAGES: gl.constexpr):
    """Return the buffer of tile ``i``."""
    return i % STAGES


@gluon.jit
def lap_of(i, STAGES: gl.constexpr):
    """Return the parity of the number of earlier fillings of tile ``i``'s buffer."""
    return i // STAGES & 1


@gluon.jit
def clear_rows(tile, rest, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Write zeros to a tile of values from row ``rest`` on, by one warp."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [1, 1], [1, 0])
    rows = gl.arange(0, 8, gl.SliceLayout(1, layout))
    for part in gl.static_range(BLOCK_N // 8):
        if part * 8 + 8 > rest:
            view = tile.slice(part * 8, 8)
            x = view.load(layout)
            view.store(gl.where(gl.expand_dims(rows + part * 8 < rest, 1), x, gl.zeros_like(x)))


@gluon.jit
def producer(
    descs,
    buffers,
    bars,
    q_full,
    v_tail,
    q_begin,
    k_begin,
    length,
    head,
    BLOCK_N: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr,
):
    q_desc, k_desc, v_desc = descs
    q_smem, k_smem, v_smem = buffers
    k_full, k_free, v_full, v_free = bars
    tiles = (length + BLOCK_N - 1) // BLOCK_N
    rest = length % BLOCK_N
    if tiles > 0:
        for w in gl.static_range(2):
            mbarrier.expect(q_full.index(w), q_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(q_desc, [q_begin + 64 * w, head, 0], q_full.index(w), q_smem.index(w))
    for i in range(tiles):
        stage = stage_of(i, STAGES)
        lap = lap_of(i, STAGES)
        row = k_begin + i * BLOCK_N
        mbarrier.wait(k_free.index(stage), lap ^ 1)
        mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(k_desc, [row, head, 0], k_full.index(stage), k_smem.index(stage))
        mbarrier.wait(v_free.index(stage), lap ^ 1)
        if (i == tiles - 1) & (rest > 0):
            mbarrier.expect(v_tail, v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(v_desc, [row, head, 0], v_tail, v_smem.index(stage))
            mbarrier.wait(v_tail, 0)
            clear_rows(v_smem.index(stage).reshape([BLOCK_N, HEAD_DIM]), rest, BLOCK_N, HEAD_DIM)
            fence_async_shared()
            gl.thread_barrier()
            mbarrier.arrive(v_full.index(stage), count=1)
        else:
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(v_desc, [row, head, 0], v_full.index(stage), v_smem.index(stage))


@gluon.jit
def softmax_step(scores, row_max, row_sum, scale):
    """Return a tile's weights, the running maximum (scaled, base 2) and sum, and the scale of older sums."""
    new_max = gl.maximum(row_max, gl.max(scores, 1) * scale)
    weights = gl.exp2(scores * scale - gl.expand_dims(new_max, 1))
    shrink = gl.exp2(row_max - new_max)
    return weights, new_max, row_sum * shrink + gl.sum(weights, 1), shrink


@gluon.jit
def anchor(row_sum):
    """Keep the following wait behind the exponentials, by a store that depends on their sum and never happens.

    Without it ptxas moves the wait in front of them, which is correct and overlaps nothing.
    """
    return gl.inline_asm_elementwise(
        """{
        .reg .pred never;
        .reg .b32 nowhere;
        mov.b32 nowhere, 0;
        setp.lt.f32 never, $1, 0f00000000;
        @never st.volatile.shared.f32 [nowhere], $1;
        mov.b32 $0, $1;
        }""",
        "=r,r",
        [row_sum],
        dtype=gl.float32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def issue_scores(q, k_smem, stage, BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, SCORES: gl.constexpr):
    keys = k_smem.index(stage).reshape([BLOCK_N, HEAD_DIM]).permute((1, 0))
    return warpgroup_mma(q, keys, gl.zeros([64, BLOCK_N], gl.float32, SCORES), use_acc=False, is_async=True)


@gluon.jit
def consumer_step(
    state,
    i,
    length,
    q,
    k_smem,
    v_smem,
    bars,
    turn,
    other,
    scale,
    MASKED: gl.constexpr,
    BLOCK_N: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr,
    PINGPONG: gl.constexpr,
    SCORES: gl.constexpr,
    OUT: gl.constexpr,
    WEIGHTS: gl.constexpr,
):
    """Turn the scores of tile ``i`` into weights, while those of ``i - 1``, in ``state``, multiply their values."""
    k_full, k_free, v_full, v_free = bars
    p, acc, row_max, row_sum = state
    stage = stage_of(i, STAGES)
    before = stage_of(i - 1, STAGES)
    mbarrier.wait(k_full.index(stage), lap_of(i, STAGES))
    if PINGPONG:
        mbarrier.wait(turn, i & 1)
    scores = issue_scores(q, k_smem, stage, BLOCK_N, HEAD_DIM, SCORES)
    mbarrier.wait(v_full.index(before), lap_of(i - 1, STAGES))
    acc = warpgroup_mma(p, v_smem.index(before).reshape([BLOCK_N, HEAD_DIM]), acc, is_async=True)
    if PINGPONG:
        mbarrier.arrive(other, count=1)
    scores = warpgroup_mma_wait(1, deps=(scores,))
    mbarrier.arrive(k_free.index(stage), count=1)
    if MASKED:
        keys = i * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES))
        scores = gl.where(gl.expand_dims(keys < length, 0), scores, float("-inf"))
    weights, row_max, row_sum, shrink = softmax_step(scores, row_max, row_sum, scale)
    row_sum = anchor(row_sum)
    after = gl.convert_layout(weights.to(q.dtype), WEIGHTS, assert_trivial=True)
    # p stays in its registers until the product that reads it is done
    acc, p, after = warpgroup_mma_wait(0, deps=(acc, p, after))
    mbarrier.arrive(v_free.index(before), count=1)
    acc = acc * gl.expand_dims(gl.convert_layout(shrink, gl.SliceLayout(1, OUT), assert_trivial=True), 1)
    return after, acc, row_max, row_sum


@gluon.jit
def consumer(
    q_smem,
    k_smem,
    v_smem,
    bars,
    q_full,
    turn,
    other,
    out_ptr,
    lse_ptr,
    q_begin,
    q_end,
    length,
    head,
    out_row,
    queries,
    scale,
    BLOCK_N: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr,
    LSE: gl.constexpr,
    PINGPONG: gl.constexpr,
):
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    k_full, k_free, v_full, _v_free = bars
    tiles = (length + BLOCK_N - 1) // BLOCK_N
    q = q_smem.reshape([64, HEAD_DIM])
    acc = gl.zeros([64, HEAD_DIM], gl.float32, OUT)
    row_max = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    row_sum = gl.zeros([64], gl.float32, gl.SliceLayout(1, SCORES))
    if tiles > 0:
        mbarrier.wait(q_full, 0)
        mbarrier.wait(k_full.index(0), 0)
        if PINGPONG:
            mbarrier.wait(turn, 0)
        scores = issue_scores(q, k_smem, 0, BLOCK_N, HEAD_DIM, SCORES)
        if PINGPONG:
            mbarrier.arrive(other, count=1)
        scores = warpgroup_mma_wait(0, deps=(scores,))
        mbarrier.arrive(k_free.index(0), count=1)
        keys = gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES))
        scores = gl.where(gl.expand_dims(keys < length, 0), scores, float("-inf"))
        weights, row_max, row_sum, _shrink = softmax_step(scores, row_max, row_sum, scale)
        p = gl.convert_layout(weights.to(q.dtype), WEIGHTS, assert_trivial=True)
        for i in range(1, tiles - 1):
            p, acc, row_max, row_sum = consumer_step(
                (p, acc, row_max, row_sum), i, length, q, k_smem, v_smem, bars, turn, other, scale,
                False, BLOCK_N, HEAD_DIM, STAGES, PINGPONG, SCORES, OUT, WEIGHTS,
            )  # fmt: skip
        if tiles > 1:
            p, acc, row_max, row_sum = consumer_step(
                (p, acc, row_max, row_sum), tiles - 1, length, q, k_smem, v_smem, bars, turn, other, scale,
                True, BLOCK_N, HEAD_DIM, STAGES, PINGPONG, SCORES, OUT, WEIGHTS,
            )  # fmt: skip
        last = stage_of(tiles - 1, STAGES)
        mbarrier.wait(v_full.index(last), lap_of(tiles - 1, STAGES))
        acc = warpgroup_mma(p, v_smem.index(last).reshape([BLOCK_N, HEAD_DIM]), acc, is_async=True)
        acc, p = warpgroup_mma_wait(0, deps=(acc, p))
    row_sum = gl.where(row_max == float("-inf"), 1.0, row_sum)  # without keys: 0 / 1 and log 1 - infinity
    if LSE:
        rows = q_begin + gl.arange(0, 64, gl.SliceLayout(1, SCORES))
        lse = (row_max + gl.log2(row_sum)) * 0.6931471805599453
        gl.store(lse_ptr + head.to(gl.int64) * queries + rows, lse, mask=rows < q_end)
    acc = acc / gl.expand_dims(gl.convert_layout(row_sum, gl.SliceLayout(1, OUT), assert_trivial=True), 1)
    # through the shared memory of the queries, to write whole rows
    q.store(acc.to(q.dtype))
    out = q.load(ROWS)
    rows = q_begin + gl.arange(0, 64, gl.SliceLayout(1, ROWS))
    columns = head * HEAD_DIM + gl.arange(0, HEAD_DIM, gl.SliceLayout(0, ROWS))
    at = gl.expand_dims(rows.to(gl.int64) * out_row, 1) + gl.expand_dims(columns, 0)
    gl.store(out_ptr + at, out, mask=gl.expand_dims(rows < q_end, 1))


@gluon.jit(do_not_specialize=["queries", "heads"])
def attention_kernel(
    q_desc,
    k_desc,
    v_desc,
    out_ptr,
    lse_ptr,
    tiles_ptr,
    out_row,
    queries,
    heads,
    scale,
    HEAD_DIM: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    FIELDS: gl.constexpr,
    LSE: gl.constexpr,
    PINGPONG: gl.constexpr,
):
    # the work list, as kernels.gpu.schedule lays it out
    program = gl.program_id(0)
    entry = tiles_ptr + program // heads * FIELDS
    first = gl.load(entry + 6)
    count = gl.load(entry + 7)
    at = program - first * heads
    head = at // count
    entry = tiles_ptr + (first + at % count) * FIELDS
    q_begin = gl.load(entry)
    q_end = gl.load(entry + 1)
    k_begin = gl.load(entry + 2)
    length = gl.load(entry + 3) - k_begin

    q_smem = gl.allocate_shared_memory(q_desc.dtype, [2, 64, 1, HEAD_DIM], q_desc.layout)
    k_smem = gl.allocate_shared_memory(k_desc.dtype, [STAGES, BLOCK_N, 1, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(v_desc.dtype, [STAGES, BLOCK_N, 1, HEAD_DIM], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_tail = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(v_tail, count=1)
    for w in gl.static_range(2):
        mbarrier.init(q_full.index(w), count=1)
        mbarrier.init(turns.index(w), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_free.index(stage), count=2)
    fence_async_shared()
    if PINGPONG:
        mbarrier.arrive(turns.index(0), count=1)

    bars = (k_full, k_free, v_full, v_free)
    gl.warp_specialize(
        [
            (
                consumer,
                (
                    q_smem.index(0), k_smem, v_smem, bars, q_full.index(0), turns.index(0), turns.index(1),
                    out_ptr, lse_ptr, q_begin, q_end, length, head, out_row, queries, scale,
                    BLOCK_N, HEAD_DIM, STAGES, LSE, PINGPONG,
                ),
            ),
            (
                consumer,
                (
                    q_smem.index(1), k_smem, v_smem, bars, q_full.index(1), turns.index(1), turns.index(0),
                    out_ptr, lse_ptr, q_begin + 64, q_end, length, head, out_row, queries, scale,
                    BLOCK_N, HEAD_DIM, STAGES, LSE, PINGPONG,
                ),
            ),
            (
                producer,
                (
                    (q_desc, k_desc, v_desc), (q_smem, k_smem, v_smem), bars, q_full, v_tail,
                    q_begin, k_begin, length, head, BLOCK_N, HEAD_DIM, STAGES,
                ),
            ),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, PRODUCER_REGISTERS],
    )  # fmt: skip
