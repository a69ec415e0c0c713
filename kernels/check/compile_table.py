"""The figures of compiled kernels, the rules that they must keep, and the table of them in the repository."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARED = 232448  # bytes of shared memory that a block may have on Hopper
REGISTERS = 255  # of a thread
REGISTER_FILE = 65536  # of a multiprocessor, so the most of a block
SCREENS = ("overwritten", "missing_barriers", "missing_fences")
COLUMNS = (
    "registers",
    "shared",
    "stack",
    "spill_stores",
    "spill_loads",
    "wgmma",
    "tma",
    "setmaxnreg",
    "threads",
    *SCREENS,
)


@dataclass(frozen=True)
class Figures:
    """The resources and instructions of one variant's code.

    Attributes:
        registers: of a thread, at launch. shared: bytes, static and dynamic. stack: bytes of a thread.
        spill_stores, spill_loads: bytes. wgmma, tma, setmaxnreg: instructions. threads: of a block.
        overwritten, missing_barriers, missing_fences: places that the screens of `check.screens` find.
        serialised: 1 if ptxas had to wait after every wgmma instruction, else 0.
        hazards: what the screens say of the first such places.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    wgmma: int
    tma: int
    setmaxnreg: int
    threads: int
    overwritten: int = 0
    missing_barriers: int = 0
    missing_fences: int = 0
    serialised: int = 0
    hazards: tuple[str, ...] = ()


def broken_rules(figures: Figures, wgmma: bool = False, tma: bool = False, setmaxnreg: bool = False) -> list[str]:
    """Return a sentence for each rule that a variant breaks; the flags say what its code must contain."""
    broken = []
    if figures.spill_stores or figures.spill_loads:
        broken.append(f"spills {figures.spill_stores} bytes (stores), {figures.spill_loads} (loads): none are allowed")
    if figures.stack:
        broken.append(f"uses {figures.stack} bytes of stack: none are allowed")
    if figures.shared > SHARED:
        broken.append(f"uses {figures.shared} bytes of shared memory: a block has at most {SHARED}")
    if figures.registers > REGISTERS:
        broken.append(f"uses {figures.registers} registers: a thread has at most {REGISTERS}")
    if figures.registers * figures.threads > REGISTER_FILE:
        broken.append(
            f"uses {figures.registers} registers in {figures.threads} threads: a block has at most {REGISTER_FILE}"
        )
    if wgmma and not figures.wgmma:
        broken.append("has no wgmma instruction: it must")
    if wgmma and figures.serialised:
        broken.append("has its wgmma instructions serialised by ptxas: they must overlap")
    if tma and not figures.tma:
        broken.append("has no TMA copy (cp.async.bulk.tensor): it must")
    if setmaxnreg and not figures.setmaxnreg:
        broken.append("has no setmaxnreg instruction: it must")
    for screen in SCREENS:
        if getattr(figures, screen):
            broken.append(f"{screen.replace('_', ' ')}: {getattr(figures, screen)} places, none are allowed")
    return [*broken, *figures.hazards]


@dataclass(frozen=True)
class CompileTable:
    """All figures, with versions and the fingerprint of the sources."""

    triton: str
    ptxas: str
    fingerprint: str
    rows: Mapping[str, Figures] = field(default_factory=dict)

    def markdown(self, command: str) -> str:
        lines = [
            "# Kernels compiled for sm_90a, without a GPU",
            "",
            f"Written by `{command}`; a test fails when it is stale. Registers of a thread at",
            "launch; shared memory, stack and spills in bytes; wgmma, TMA and setmaxnreg are instructions in the PTX;",
            "threads of a block. The last three columns are places found by the screens for compiler hazards:",
            "registers of a wgmma overwritten before the wait for it, barriers missing between that wait and a write",
            "to shared memory, proxy fences missing between cp.async and wgmma. These are properties of the code:",
            "they say nothing about its speed or its results.",
            "",
            f"* triton {self.triton}",
            f"* ptxas {self.ptxas}",
            f"* sources {self.fingerprint}",
            "",
            "| variant | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |",
            "|---|" + "---:|" * len(COLUMNS),
        ]
        for name in sorted(self.rows):
            cells = [name, *(str(getattr(self.rows[name], column)) for column in COLUMNS)]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> CompileTable:
        """Parse the output of `markdown`; missing fields are empty."""

        def word(name: str) -> str:
            found = re.search(rf"^\* {name} (\S+)$", text, re.MULTILINE)
            return found.group(1) if found else ""

        rows = {}
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if len(cells) == len(COLUMNS) + 1 and all(cell.isdigit() for cell in cells[1:]):
                figures: dict[str, Any] = dict(zip(COLUMNS, map(int, cells[1:]), strict=True))
                rows[cells[0]] = Figures(**figures)
        return cls(word("triton"), word("ptxas"), word("sources"), rows)

    @classmethod
    def read(cls, path: Path) -> CompileTable:
        return cls.parse(path.read_text() if path.is_file() else "")


def differences(
    committed: CompileTable, compiled: CompileTable, prefix: str = "", listed: Collection[str] | None = None
) -> tuple[list[str], str | None]:
    """Return why a committed table is stale, and why figures were not compared, if they were not.

    Figures differ between versions of Triton or ptxas: then only names and sources are compared.
    ``prefix``: only variants whose names begin so were compiled. ``listed``: the names of all variants with that
    prefix, where only a sample of them was compiled.
    """
    stale = []
    rows = {name: row for name, row in committed.rows.items() if name.startswith(prefix)}
    names = set(compiled.rows if listed is None else listed)
    stale += [f"{name} is not in the table" for name in sorted(names - rows.keys())]
    stale += [f"{name} is in the table but no longer compiled" for name in sorted(rows.keys() - names)]
    if committed.fingerprint != compiled.fingerprint:
        stale.append("the sources have changed since the table was written")
    theirs, ours = ((table.triton, table.ptxas) for table in (committed, compiled))
    if theirs != ours:
        return stale, f"they are of triton {theirs[0]} with ptxas {theirs[1]}, here are {ours[0]} and {ours[1]}"
    for name in sorted(rows.keys() & compiled.rows.keys()):
        for column in COLUMNS:
            was, now = getattr(rows[name], column), getattr(compiled.rows[name], column)
            if was != now:
                stale.append(f"{name}: {column.replace('_', ' ')} was {was}, is {now}")
    return stale, None
