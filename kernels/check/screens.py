"""Screen machine code for hazards that a compiler of this version is known to leave.

Three of them, all about matrix instructions of a warpgroup (wgmma), which run asynchronously: their registers may not
be written before the wait (`overwritten_operands`; triton pull request 11781), what they read from shared memory may
not be overwritten before all warpgroups of a block have waited (`missing_barriers`; triton issue 11047), and what
cp.async wrote there becomes visible to them only by a proxy fence after its wait (`missing_fences`; PTX ISA, async
proxy). All go through every path of the control flow, so a hazard around a loop's back edge is found too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar

from zoetrope.kernels.check.operand_buffers import allocate, copied_operands, copies_reach_operands, operands_end
from zoetrope.kernels.check.sass import MMA, REGISTER, SassCode, SassInstruction, disassemble

State = TypeVar("State", bound=Hashable)
WARPGROUP = 128  # threads
BARRIERS = ("BAR.SYNC", "BAR.RED")
SHARED_WRITES = ("ATOMS", "LDGSTS", "STS", "STSM", "UBLKCP", "UTMALDG")
MOST_GROUPS = 8  # of matrix instructions that are counted; waits for fewer pending ones than this are exact


class Hazards(NamedTuple):
    """What the three screens found in one kernel: a sentence for each place."""

    overwritten: list[str]
    barriers: list[str]
    fences: list[str]


def screen(cubin: bytes, ttgir: str, threads: int) -> Hazards:
    """Screen a compiled kernel.

    Args:
        ttgir: its code in Triton's GPU dialect. threads: of a block.
    """
    if "ttng.warp_group_dot " not in ttgir:
        return Hazards([], [], [])
    code, allocated = SassCode.parse(disassemble(cubin)), allocate(ttgir)
    return Hazards(
        overwritten_operands(code),
        missing_barriers(code, threads, operands_end(allocated), copies_reach_operands(allocated)),
        missing_fences(code) if copied_operands(ttgir) else [],
    )


class ProductFlight(NamedTuple):
    """How far a matrix instruction is: whether its group is closed, and how many were closed after it."""

    closed: bool
    later: int


def overwritten_operands(code: SassCode) -> list[str]:
    """Return a sentence for each wgmma of which a register is touched before the wait for it.

    That is a write to the accumulator or to the operand in registers, or a read of the accumulator. Another wgmma may
    use the accumulator: they run in order.
    """
    found = []
    for at, instruction in enumerate(code.instructions):
        if not instruction.begins(*MMA):
            continue
        registers = _accumulator(instruction), _operand(instruction)
        for other, _ in code.walk(at, ProductFlight(False, 0), _advance):
            if not other.begins(*MMA) and (touched := _touched(other, *registers)):
                found.append(f"{other} {touched} of {instruction}, before the wait for it")
                break
    return found


def _touched(instruction: SassInstruction, accumulator: frozenset[int], operand: frozenset[int]) -> str:
    """Return what an instruction does to the registers of a wgmma that it may not do while that runs, or nothing."""
    for verb, hit, what in (
        ("writes", instruction.written & operand, "an operand"),
        ("writes", instruction.written & accumulator, "the accumulator"),
        ("reads", instruction.read & accumulator, "the accumulator"),
    ):
        if hit:
            return f"{verb} R{min(hit)}, {what}"
    return ""


def _advance(instruction: SassInstruction, flight: ProductFlight) -> ProductFlight | None:
    """Follow one wgmma past an instruction, which for the first step is itself; None when it is waited for."""
    if instruction.begins(*MMA) and "gsb0" in instruction.operands:
        return ProductFlight(True, min(flight.later + 1, MOST_GROUPS)) if flight.closed else ProductFlight(True, 0)
    if (pending := _wait(instruction)) is not None and flight.closed and pending <= flight.later:
        return None
    return flight


def _wait(instruction: SassInstruction) -> int | None:
    """Return how many groups of wgmma may be pending after an instruction that waits for them."""
    if not instruction.begins("WARPGROUP.DEPBAR") or instruction.guard:
        return None
    return int(instruction.operands[-1], 16)


def _accumulator(instruction: SassInstruction) -> frozenset[int]:
    """Return the registers of the accumulator: 64 rows of N values over 128 threads; two of 16 bits in one."""
    first = REGISTER.match(instruction.operands[0])
    size = re.search(r"\.64x(\d+)x\d+\.(\w+)", instruction.name)
    if first is None or size is None:
        raise ValueError(f"{instruction}: this is no wgmma as ptxas 12.8 writes it")
    count = int(size.group(1)) // (4 if size.group(2) == "F16" else 2)
    return frozenset(range(int(first.group(1)), int(first.group(1)) + count))


def _operand(instruction: SassInstruction) -> frozenset[int]:
    """Return the four registers of the first factor, if it is not in shared memory."""
    first = REGISTER.match(instruction.operands[1])
    return frozenset() if first is None else frozenset(range(int(first.group(1)), int(first.group(1)) + 4))


class OperandReads(NamedTuple):
    """Reads of shared memory by wgmma: some not waited for, some that another warpgroup may not have ended."""

    pending: bool
    unsynchronised: bool


def missing_barriers(
    code: SassCode, threads: int, operands_end: int | None = None, copies_reach: bool = True
) -> list[str]:
    """Return a sentence for each write to shared memory after a wait for wgmma without a barrier in between.

    The wait of a warpgroup is for its own reads; others of the block may still be reading. Where warpgroups have
    different roles (the code hands registers over), this holds within a role that several of them share.

    Args:
        threads: of a block; up to 128 there is only one warpgroup.
        operands_end: the byte of shared memory from which on wgmma reads nothing; None if that is not known.
        copies_reach: whether cp.async may write what wgmma reads: the code seldom shows where its copies go.
    """
    roles = any(instruction.begins("USETMAXREG") for instruction in code.instructions)
    counts = [count for instruction in code.instructions if (count := _barrier_threads(instruction)) is not None]
    if threads <= WARPGROUP or (roles and all(count <= WARPGROUP for count in counts)):
        return []

    def may_overwrite(instruction: SassInstruction) -> bool:
        if instruction.begins("LDGSTS") and not copies_reach:
            return False
        return instruction.begins(*SHARED_WRITES) and (operands_end is None or _offset(instruction) < operands_end)

    def step(instruction: SassInstruction, reads: OperandReads) -> OperandReads:
        if instruction.begins(*MMA):
            return OperandReads(True, reads.unsynchronised)
        if (left := _wait(instruction)) is not None:
            return OperandReads(reads.pending and left > 0, reads.unsynchronised or reads.pending)
        if instruction.begins(*BARRIERS) and not instruction.guard:
            part = _barrier_threads(instruction)
            return reads if part is not None and part <= WARPGROUP else OperandReads(reads.pending, False)
        return reads

    return _hazards(
        code,
        OperandReads(False, False),
        step,
        lambda instruction, reads: reads.unsynchronised and may_overwrite(instruction),
        "writes to shared memory that another warpgroup's wgmma may still read: a barrier must follow the wait",
    )


def _barrier_threads(instruction: SassInstruction) -> int | None:
    """Return how many threads meet at a barrier of a part of the block."""
    if not instruction.begins(*BARRIERS):
        return None
    return next((int(operand, 16) for operand in instruction.operands[1:] if operand.startswith("0x")), None)


def _offset(instruction: SassInstruction) -> int:
    """Return the constant part of the address that is written, which contains the place of the buffer, or 0."""
    constants = re.findall(r"\+(0x[0-9a-f]+)\]", instruction.operands[0])
    return int(constants[0], 16) if constants else 0


class AsyncCopies(NamedTuple):
    """Copies by cp.async: some begun, some waited for that the async proxy may not see yet."""

    begun: bool
    unseen: bool


def missing_fences(code: SassCode) -> list[str]:
    """Return a sentence for each wgmma that cp.async can reach without a proxy fence after the wait for the copies.

    To be asked only where wgmma reads what cp.async wrote (`copied_operands`); where some of the copies are for other
    readers, fewer fences than this asks for might do.
    """

    def step(instruction: SassInstruction, copies: AsyncCopies) -> AsyncCopies:
        if instruction.begins("LDGSTS"):
            return AsyncCopies(True, copies.unseen)
        if instruction.begins("DEPBAR"):
            return AsyncCopies(copies.begun, copies.unseen or copies.begun)
        if instruction.begins("FENCE.VIEW.ASYNC") and not instruction.guard:
            return AsyncCopies(copies.begun, False)
        return copies

    return _hazards(
        code,
        AsyncCopies(False, False),
        step,
        lambda instruction, copies: copies.unseen and instruction.begins(*MMA),
        "reads what cp.async wrote: a proxy fence (fence.proxy.async) must follow the wait for the copies",
    )


def _hazards(
    code: SassCode,
    start: State,
    step: Callable[[SassInstruction, State], State],
    wrong: Callable[[SassInstruction, State], bool],
    why: str,
) -> list[str]:
    found: dict[int, str] = {}
    for at in code.starts:
        for instruction, state in code.walk(at, start, step):
            if wrong(instruction, state):
                found[instruction.address] = f"{instruction} {why}"
    return [found[address] for address in sorted(found)]
