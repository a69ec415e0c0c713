"""The code of `kernels.gpu.attention_8bit`: one program has a tile of queries of one head and walks its keys' tiles."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _attend_tile(
    q,
    row_scale,
    k,
    key_scale,
    v,
    top,
    total,
    acc,
    columns,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FP8: tl.constexpr,
    SHIFT: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Process one tile of keys, of which ``columns`` count if ``MASKED``. The state is (top, total, acc)."""
    scores = tl.dot(q, tl.trans(k)).to(tl.float32)
    scale = row_scale * key_scale  # positive, so that the largest product belongs to the largest score
    if MASKED:
        scaled = tl.where(tl.arange(0, BLOCK_N)[None, :] < columns, scores * scale[:, None], float("-inf"))
        new_top = tl.maximum(top, tl.max(scaled, 1))
        p = tl.exp2(scaled - (new_top - SHIFT)[:, None])
    else:
        new_top = tl.maximum(top, tl.max(scores, 1) * scale)
        p = tl.exp2(scores * scale[:, None] - (new_top - SHIFT)[:, None])
    keep = tl.exp2(top - new_top)
    total = total * keep + tl.sum(p, 1)
    if FP8:
        # In the order in which a thread holds the scores it is also given the 8-bit operand: the values were stored so.
        ordered = p.to(tl.float8e4nv).reshape(BLOCK_M, BLOCK_N // 16, 2, 4, 2).permute(0, 1, 3, 2, 4)
        # Tensor cores sum fp8 products in less than float32: each tile is summed alone and added here.
        acc = acc * keep[:, None] + tl.dot(ordered.reshape(BLOCK_M, BLOCK_N), tl.trans(v))
    else:
        # float32 is multiplied as tf32, which has the digits of float16; the interpreter keeps all of them.
        acc = tl.dot(p.to(v.dtype), v, acc * keep[:, None], input_precision="tf32")
    return new_top, total, acc


@triton.jit(do_not_specialize=["rows", "heads", "tiles", "mask_tiles", "mask_most"])
def attention_8bit_kernel(
    q_ptr,
    q_scale_ptr,
    k_desc,
    k_scale_ptr,
    v_desc,
    v_ptr,
    v_scale_ptr,
    shift_ptr,
    out_ptr,
    lse_ptr,
    work_ptr,
    first_tile_ptr,
    count_ptr,
    index_ptr,
    q_scale_row,
    q_scale_head,
    v_row,
    rows,
    heads,
    tiles,
    mask_tiles,
    mask_most,
    score_scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FIELDS: tl.constexpr,
    FP8: tl.constexpr,
    SPARSE: tl.constexpr,
    LSE: tl.constexpr,
    SMOOTH: tl.constexpr,
):
    # Neighbouring programs share a sequence and a head, whose keys then stay in L2.
    program = tl.program_id(0)
    entry = work_ptr + program // heads * FIELDS
    group, count = tl.load(entry + 6), tl.load(entry + 7)
    inner = program - group * heads
    head, entry = inner // count, work_ptr + (group + inner % count) * FIELDS
    q_begin, q_end = tl.load(entry), tl.load(entry + 1)
    k_begin, k_end = tl.load(entry + 2), tl.load(entry + 3)
    number, sequence = tl.load(entry + 4), tl.load(entry + 5)
    # The keys of a sequence are padded to whole tiles: tile t of this sequence is tile first + t of this head.
    first = head * tiles + tl.load(first_tile_ptr + sequence)
    last = tl.cdiv(k_end - k_begin, BLOCK_N) - 1
    steps = last + 1
    if SPARSE:
        steps = tl.load(count_ptr + head * mask_tiles + number)
        index_ptr += (head * mask_tiles + number).to(tl.int64) * mask_most

    row = q_begin + tl.arange(0, BLOCK_M)
    dim = tl.arange(0, HEAD_DIM)
    inside = row < q_end
    at = (row.to(tl.int64)[:, None] * heads + head) * HEAD_DIM + dim[None, :]  # of the queries and of the result
    q = tl.load(q_ptr + at, mask=inside[:, None], other=0)
    flat = head.to(tl.int64) * rows + row
    scale_at = head.to(tl.int64) * q_scale_head + row.to(tl.int64) * q_scale_row
    row_scale = tl.load(q_scale_ptr + scale_at, mask=inside, other=1.0) * score_scale

    SHIFT: tl.constexpr = 8.0 if FP8 else 0.0  # e4m3 has its bits between 2 ** -9 and 448: probabilities up to 256
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for step in range(0, steps - 1):
        tile = step
        if SPARSE:
            tile = tl.load(index_ptr + step)
        k = k_desc.load([(first + tile) * BLOCK_N, 0])
        key_scale = tl.load(k_scale_ptr + first + tile)
        if FP8:
            v = v_desc.load([(first + tile) * HEAD_DIM, 0])
        else:
            v = v_desc.load([k_begin + tile * BLOCK_N, head * HEAD_DIM])
        top, total, acc = _attend_tile(
            q, row_scale, k, key_scale, v, top, total, acc, BLOCK_N, BLOCK_M, BLOCK_N, FP8, SHIFT, False
        )
    if steps > 0:  # the last tile may end inside
        tile = last
        if SPARSE:
            tile = tl.load(index_ptr + steps - 1)
        k = k_desc.load([(first + tile) * BLOCK_N, 0])
        key_scale = tl.load(k_scale_ptr + first + tile)
        key = k_begin + tile * BLOCK_N + tl.arange(0, BLOCK_N)
        if FP8:
            v = v_desc.load([(first + tile) * HEAD_DIM, 0])
        else:  # the rows behind belong to another sequence: 0 times its NaN would be NaN
            v_offset = key.to(tl.int64)[:, None] * v_row + head * HEAD_DIM + dim[None, :]
            v = tl.load(v_ptr + v_offset, mask=key[:, None] < k_end, other=0.0)
        columns = k_end - k_begin - tile * BLOCK_N
        top, total, acc = _attend_tile(
            q, row_scale, k, key_scale, v, top, total, acc, columns, BLOCK_M, BLOCK_N, FP8, SHIFT, True
        )

    total = tl.where(total == 0.0, 1.0, total)  # a query without keys: 0 / 1 and log 1 - infinity
    out = acc / total[:, None]
    if FP8:
        out *= tl.load(v_scale_ptr + (sequence * heads + head) * HEAD_DIM + dim)[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside[:, None])
    if LSE:
        lse = (top - SHIFT + tl.log2(total)) * 0.6931471805599453
        if SMOOTH:  # what the mean key adds to every score of a row
            lse += tl.load(shift_ptr + flat, mask=inside, other=0.0)
        tl.store(lse_ptr + flat, lse, mask=inside)
