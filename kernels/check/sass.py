"""Read the machine code of a kernel: instructions, what they write, and in which order they can run.

The listing is nvdisasm's, which comes with Triton. Its instructions are not documented; what is used here was read off
listings of sm_90a made by ptxas 12.8.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from triton import knobs

LINE = re.compile(
    r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:(?P<guard>@!?U?P\w+)\s+)?(?P<name>[A-Z][\w.]*)(?P<rest>[^;]*);"
)
LABEL = re.compile(r"^(\.L_\w+):")
TARGET = re.compile(r"\.L_\w+")
REGISTER = re.compile(r"^R(\d+)(?:\.\w+)*$")
PREDICATE = re.compile(r"^!?(?:U?P\d|U?PT)$")
MMA = ("HGMMA", "QGMMA", "IGMMA", "BGMMA")
# Their first register is read, or they have none.
READERS = ("BAR", "BRX", "CALL", "JMX", "NANOSLEEP", "R2B", "R2P", "RET", "WARPSYNC", *MMA)
TWO = ("CS2R", "DADD", "DFMA", "DMNMX", "DMUL", "F2F.F64", "I2F.F64")  # registers written, where the name says nothing
FOUR = ("DMMA", "HMMA", "IMMA", "QMMA")

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True)
class SassInstruction:
    """One instruction: ``@P0 NAME operands``."""

    address: int
    guard: str
    name: str
    operands: tuple[str, ...]
    targets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {', '.join(self.operands)}".strip() + f" at {self.address:#x}"

    def begins(self, *names: str) -> bool:
        """Tell whether its name is one of these, or one of these and a dot."""
        return any(self.name == name or self.name.startswith(f"{name}.") for name in names)

    @cached_property
    def written(self) -> frozenset[int]:
        """Return the general registers that it writes, if it is no matrix instruction of a warpgroup."""
        if self._target is None:
            return frozenset()
        start = int(self.operands[self._target].partition(".")[0][1:])
        return frozenset(range(start, start + self._width))

    @cached_property
    def read(self) -> frozenset[int]:
        """Return the general registers that it names as sources: of a group of them only the first."""
        sources = " ".join(operand for at, operand in enumerate(self.operands) if at != self._target)
        return frozenset(int(number) for number in re.findall(r"\bR(\d+)", sources))

    @cached_property
    def _target(self) -> int | None:
        """Return which operand is the register, or the first of the registers, that it writes."""
        if "SETP" in self.name or self.begins(*READERS):
            return None
        at = next((at for at, operand in enumerate(self.operands) if not PREDICATE.match(operand)), None)
        return at if at is not None and REGISTER.match(self.operands[at]) else None

    @property
    def _width(self) -> int:
        if self.begins("LDSM"):
            return int(self.name[-1]) if self.name[-1] in "24" else 1
        if ".128" in self.name or self.begins(*FOUR):
            return 4
        if self.begins("CS2R.32"):
            return 1
        wide = re.search(r"\.(?:WIDE|64)(?:\.|$)", self.name) is not None and not self.begins("SHF", "LEA", "ISETP")
        return 2 if wide or self.begins(*TWO) else 1


@dataclass(frozen=True)
class SassCode:
    """The instructions of a cubin in their order, with the positions of labels and of the starts of functions."""

    instructions: tuple[SassInstruction, ...]
    labels: dict[str, int] = field(repr=False)
    starts: tuple[int, ...]

    @classmethod
    def parse(cls, listing: str) -> SassCode:
        """Parse what `disassemble` returns.

        Raises:
            ValueError: it contains no instruction.
        """
        found: list[SassInstruction] = []
        labels: dict[str, int] = {}
        starts: list[int] = []
        for line in listing.splitlines():
            if line.lstrip().startswith(".section") and ".text." in line:
                starts.append(len(found))
            elif (label := LABEL.match(line)) is not None:
                labels[label.group(1)] = len(found)
            elif (match := LINE.match(line)) is not None:
                operands = match["rest"].partition("(*")[0]
                targets = tuple(TARGET.findall(match["rest"]))
                words = tuple(word.strip() for word in operands.split(",") if word.strip())
                found.append(
                    SassInstruction(int(match["address"], 16), match["guard"] or "", match["name"], words, targets)
                )
        if not found:
            raise ValueError("the listing has no instruction of sm_90a in it")
        return cls(tuple(found), labels, tuple(start for start in dict.fromkeys(starts) if start < len(found)) or (0,))

    def following(self, at: int) -> Iterator[int]:
        """Yield the positions that can follow a position."""
        instruction = self.instructions[at]
        ends = instruction.begins("EXIT", "RET", "BRX", "JMX", "BRA", "JMP") and not self._conditional(instruction)
        if not ends and at + 1 < len(self.instructions):
            yield at + 1
        if instruction.begins("BRA", "BRX", "CALL", "JMP"):
            yield from (self.labels[target] for target in instruction.targets if target in self.labels)
        if instruction.begins("BSYNC", "BREAK"):
            yield from self._reconverging.get(instruction.operands[-1], ())

    def walk(
        self, at: int, state: State, step: Callable[[SassInstruction, State], State | None]
    ) -> Iterator[tuple[SassInstruction, State]]:
        """Run every path from a position, with a state that each instruction changes; None ends a path.

        Yields:
            Every instruction with every state in which it can be reached, once.
        """
        seen = {(at, state)}
        waiting = [(at, state)]
        while waiting:
            here, before = waiting.pop()
            instruction = self.instructions[here]
            yield instruction, before
            after = step(instruction, before)
            if after is None:
                continue
            for following in self.following(here):
                if (following, after) not in seen:
                    seen.add((following, after))
                    waiting.append((following, after))

    @staticmethod
    def _conditional(instruction: SassInstruction) -> bool:
        """Tell whether it may have no effect: by its guard, or (BRA UP0, ...) by its first operand."""
        by_operand = instruction.operands[:1] and PREDICATE.match(instruction.operands[0])
        return instruction.guard not in ("", "@PT", "@UPT") or bool(by_operand)

    @cached_property
    def _reconverging(self) -> dict[str, set[int]]:
        """Return, by barrier register, where its threads can meet."""
        found: dict[str, set[int]] = {}
        for instruction in self.instructions:
            if instruction.begins("BSSY"):
                places = found.setdefault(instruction.operands[0], set())
                places |= {self.labels[target] for target in instruction.targets if target in self.labels}
        return found


def disassemble(cubin: bytes) -> str:
    """Return the listing of a cubin, with labels.

    Raises:
        RuntimeError: nvdisasm fails.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([knobs.nvidia.nvdisasm.path, "-c", file.name], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvdisasm ended with code {done.returncode}: {done.stderr[-500:]}")
    return done.stdout
