"""Read from Triton's GPU dialect which buffers of shared memory the matrix instructions of a kernel read.

The machine code says only at which addresses shared memory is written; which of them are operands is known a step
before.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

VALUE = r"%[\w#-]+"
BUFFER = re.compile(rf"({VALUE}) = ttg\.local_alloc\b.*!ttg\.memdesc<((?:\d+x)+)(\w+)")
VIEW = re.compile(rf"({VALUE}) = ttg\.memdesc_\w+ ({VALUE})")
COPY = re.compile(rf"ttg\.async_copy_global_to_local {VALUE}, ({VALUE})")
KIND = r"(tensor|!ttg\.memdesc)<"
PRODUCT = re.compile(rf"ttng\.warp_group_dot ({VALUE}), ({VALUE}).* : {KIND}.*> \* {KIND}")
ROLES = re.compile(r"ttg\.warp_specialize\(([^)]*)\)")
ROLE = re.compile(r"^\s*partition\d+\((.*)\) num_warps")
CARRIED = re.compile(rf"({VALUE}) = ({VALUE})(?=[,)])")  # by a loop
OFFSET = re.compile(r"allocation\.offset = (\d+)")


def copied_operands(ttgir: str) -> set[str]:
    """Return the buffers that both cp.async writes and wgmma reads."""
    found: dict[str, set[str | None]] = {"copy": set(), "product": set()}
    for kind, _, buffer in _uses(ttgir):
        found[kind].add(buffer)
    return {buffer for buffer in found["copy"] & found["product"] if buffer is not None}


def operands_end(allocated: str) -> int | None:
    """Return the byte of shared memory from which on wgmma reads nothing; None if a buffer cannot be told.

    Args:
        allocated: what `allocate` returns.
    """
    operands = _spans_of("product", allocated)
    return None if operands is None else max((end for _, end in operands), default=0)


def copies_reach_operands(allocated: str) -> bool:
    """Tell whether cp.async may write a byte of shared memory that wgmma reads; True if a buffer cannot be told.

    Args:
        allocated: what `allocate` returns.
    """
    copied, operands = _spans_of("copy", allocated), _spans_of("product", allocated)
    if copied is None or operands is None:
        return True
    return any(begin < other_end and other < end for begin, end in copied for other, other_end in operands)


def _spans_of(kind: str, allocated: str) -> list[tuple[int, int]] | None:
    """Return first byte and end of the buffers of a kind of use (see `_uses`); None if one cannot be told."""
    spans = {}
    for number, line in enumerate(allocated.splitlines(), 1):
        if (match := BUFFER.search(line)) is not None and (offset := OFFSET.search(line)) is not None:
            values = prod(int(size) for size in match.group(2).rstrip("x").split("x"))
            begin = int(offset.group(1))
            spans[_named(match.group(1), number)] = begin, begin + values * _bits(match.group(3)) // 8
    used = {buffer for use, _, buffer in _uses(allocated) if use == kind}
    return [spans[buffer] for buffer in used if buffer is not None] if used <= spans.keys() else None


def allocate(ttgir: str) -> str:
    """Return the code of a kernel with the place of each buffer, as the next step of Triton's compiler finds it."""
    from triton._C.libtriton import ir, nvidia, passes

    context = ir.context()
    ir.load_dialects(context)
    nvidia.load_dialects(context)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ttgir")
        path.write_text(ttgir)
        module = ir.parse_mlir_module(str(path), context)
    manager = ir.pass_manager(context)  # as the first passes of CUDABackend.make_llir
    passes.ttgpuir.add_combine_tensor_select_and_if(manager)
    passes.ttgpuir.add_allocate_warp_groups(manager)
    passes.convert.add_scf_to_cf(manager)
    passes.gluon.add_inliner(manager)
    nvidia.passes.ttgpuir.add_allocate_shared_memory_nv(manager, 90, 86)
    manager.run(module, "allocate")
    return str(module)


def _uses(code: str) -> Iterator[tuple[str, int, str | None]]:
    """Yield ``copy`` or ``product``, the line, and the buffer that is written or read; None if it cannot be told.

    Names are resolved in the order of the text, since separate regions may use one name.
    """
    buffer_of: dict[str, str] = {}
    captured: list[str] = []
    for number, line in enumerate(code.splitlines(), 1):
        if match := BUFFER.search(line):
            buffer_of[match.group(1)] = _named(match.group(1), number)
        elif match := VIEW.search(line):
            if match.group(2) in buffer_of:
                buffer_of[match.group(1)] = buffer_of[match.group(2)]
        elif match := COPY.search(line):
            yield "copy", number, buffer_of.get(match.group(1))
        elif match := PRODUCT.search(line):
            for value, kind in ((match.group(1), match.group(3)), (match.group(2), match.group(4))):
                if kind == "!ttg.memdesc":
                    yield "product", number, buffer_of.get(value)
        elif match := ROLES.search(line):
            captured = re.findall(VALUE, match.group(1))
        elif match := ROLE.search(line):
            arguments = re.findall(rf"({VALUE}):", match.group(1))
            buffer_of |= {a: buffer_of[c] for a, c in zip(arguments, captured, strict=False) if c in buffer_of}
        buffer_of |= {argument: buffer_of[value] for argument, value in CARRIED.findall(line) if value in buffer_of}


def _named(value: str, number: int) -> str:
    return f"{value}, line {number}"


def _bits(element: str) -> int:
    """Return the size of an element: i8, bf16, f32, f8E4M3FN."""
    match = re.match(r"[a-z]+(\d+)", element)
    if match is None:
        raise ValueError(f"element is {element!r}: its name must contain its bits")
    return int(match.group(1))
