"""Predict from machine code how fast the matrix products run on an H100, before and after a change of the kernels.

    python -m zoetrope.benchmarks.gemm_prediction --before 83f1257 --out benchmarks/results/gemm-prediction

Nothing runs on a GPU: registers, shared memory and instructions are counted in code compiled here, and speeds are those
of a model.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope.benchmarks import command
from zoetrope.benchmarks.command import OUT_HELP, command_line, parser
from zoetrope.benchmarks.provenance import REPOSITORY, commit_of, header
from zoetrope.kernels.check.sass import MMA, SassCode, disassemble

BF16, FP8 = "zoetrope.kernels.gpu.grouped_gemm", "zoetrope.kernels.gpu.grouped_gemm_fp8"
TOKENS, CHOICES = 24_180, 8  # a step of the 27B at 480p, 5 s, both guidance branches; its rows are 8 a token
DIM, HIDDEN = 3072, 1792


@dataclass(frozen=True)
class AssumedGpu:
    """An H100 SXM, as far as the model needs it. Rates are published measurements, not limits of the data sheet.

    Attributes:
        clock: Hz under load. bf16, fp8: FLOP/s of the tensor cores, at the rate of cuBLAS's best bf16 product.
        l2: bytes/s from L2 to all multiprocessors. copy: bytes/s of a copy in memory.
        special: results a clock of a multiprocessor's special function units. fill: clocks until the first operands of
            a tile arrive, where nothing hides that.
    """

    multiprocessors: int = 132
    clock: float = 1.7e9
    bf16: float = 798e12
    fp8: float = 2 * 798e12
    l2: float = 7.0e12
    copy: float = 3.0e12
    special: int = 16
    fill: int = 1500


H100 = AssumedGpu()


@dataclass(frozen=True)
class TileCode:
    """What a tile costs, counted in a variant's machine code.

    Attributes:
        loop: instructions of one pass of the loop over K. rest: all others of a tile. special: how many of those are
            for the special function unit. spilled: bytes.
    """

    registers: int
    shared: int
    spilled: int
    warps: int
    block: tuple[int, int, int]
    flatten: bool
    loop: int
    rest: int
    special: int

    @classmethod
    def of(cls, built: dict[str, Any]) -> TileCode:
        """Count in what `kernel_build` prints of a variant."""
        cycle, others = split_loop(SassCode.parse(disassemble(base64.b64decode(built.pop("cubin")))))
        special = sum(name.startswith("MUFU") for name in others)
        block = tuple(built.pop("block"))
        return cls(**built, block=block, loop=len(cycle), rest=len(others), special=special)


def split_loop(code: SassCode) -> tuple[list[str], list[str]]:
    """Return the names of the instructions of the loop over K, and of the others in the loop over tiles.

    The first are the shortest way from a matrix instruction back to itself, the others what else lies on any such way.

    Raises:
        ValueError: no matrix instruction is in a loop.
    """
    after = {at: list(code.following(at)) for at in range(len(code.instructions))}
    before: dict[int, list[int]] = {at: [] for at in after}
    for at, following in after.items():
        for one in following:
            before[one].append(at)
    loops = []
    for start in (at for at, one in enumerate(code.instructions) if one.begins(*MMA)):
        reached, way = _reach(start, after)
        if way:
            loops.append((reached & _reach(start, before)[0], way))
    if not loops:
        raise ValueError("no matrix instruction of the code is in a loop: it is not that of a product")
    inside, cycle = max(loops, key=lambda loop: len(loop[0]))
    names = {at: code.instructions[at].name for at in inside if code.instructions[at].name != "NOP"}
    return [names[at] for at in cycle if at in names], [name for at, name in names.items() if at not in cycle]


def _reach(start: int, edges: dict[int, list[int]]) -> tuple[set[int], list[int]]:
    """Return all that can be reached, and the shortest way back to the start: nothing if there is none."""
    came: dict[int, int] = {}
    waiting = deque([start])
    while waiting:
        at = waiting.popleft()
        for one in edges[at]:
            if one not in came:
                came[one] = at
                waiting.append(one)
    way = []
    if start in came:
        at = start
        while True:
            way.append(at)
            at = came[at]
            if at == start:
                break
    return set(came), way


@dataclass(frozen=True)
class ProductReach:
    """Predicted seconds of a tile: of its main loop by what limits it, and of the rest."""

    tensor: float
    l2: float
    issue: float
    rest: float
    tflops: float

    @property
    def limit(self) -> str:
        parts = {"tensor cores": self.tensor, "L2": self.l2, "issue": self.issue}
        return max(parts, key=lambda name: parts[name])


def reach(tile: TileCode, k: int, size: int, machine: AssumedGpu = H100) -> ProductReach:
    """Predict a product of full tiles; ``size`` bytes an operand's value.

    The main loop takes the longest of: the tensor cores' time, that of its operands from L2, that of issuing its
    instructions. What follows overlaps with nothing but loads.
    """
    rows, columns, depth = tile.block
    share = machine.multiprocessors
    flops = 2.0 * rows * columns * k
    tensor = flops / ((machine.fp8 if size == 1 else machine.bf16) / share)
    l2 = (rows + columns) * k * size / (machine.l2 / share)
    schedulers = tile.warps / 4  # warps of each of the four
    issue = k / depth * tile.loop * schedulers / machine.clock
    special = tile.special * schedulers * 32 / (machine.special / 4)
    rest = (max(tile.rest * schedulers, special) + (0 if tile.flatten else machine.fill)) / machine.clock
    seconds = max(tensor, l2, issue) + rest
    return ProductReach(tensor, l2, issue, rest, flops / seconds * share / 1e12)


@dataclass(frozen=True)
class PredictedProduct:
    """A line of the table: a product, its variant before and now, and its sizes."""

    name: str
    module: str
    before: str
    now: str
    m: int
    k: int
    n: int

    @property
    def size(self) -> int:
        return 1 if self.module == FP8 else 2


ROWS = TOKENS * CHOICES
PASSES = 0.85  # of the rate of a copy that a pass over rows reaches
T, F = "grouped_gemm/triton/bf16", "grouped_gemm/fp8/rows/bf16"
PRODUCTS = (
    PredictedProduct("27B experts up, bf16", BF16, f"{T}/gathered/kn", f"{T}/first/kn", ROWS, DIM, HIDDEN),
    PredictedProduct("27B experts down, bf16", BF16, f"{T}/second/kn", f"{T}/second/kn", ROWS, HIDDEN, DIM),
    PredictedProduct("14B FFN up, bf16", BF16, f"{T}/dense", f"{T}/dense", 65_520, 5120, 13_824),
    PredictedProduct("27B experts up, fp8", FP8, f"{F}/first", f"{F}/first", ROWS, DIM, HIDDEN),
    PredictedProduct("27B experts down, fp8", FP8, f"{F}/second", f"{F}/second", ROWS, HIDDEN, DIM),
)


def build(tree: Path, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], TileCode]:
    """Compile the variants ``(module, name)`` of a source tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).with_name("kernel_build.py")
    found: dict[tuple[str, str], TileCode] = {}
    names: dict[str, list[str]] = {}
    for module, name in wanted:
        names.setdefault(module, []).append(name)
    for module, listed in names.items():
        command = [sys.executable, "-P", str(script), module, *dict.fromkeys(listed)]
        done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{module} of {tree} does not compile: {done.stderr[-1000:]}")
        found |= {(module, name): TileCode.of(built) for name, built in json.loads(done.stdout).items()}
    return found


def build_commit(commit: str, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], TileCode]:
    """Compile the variants of a commit of this repository."""
    done = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True)
    if done.returncode:
        raise ValueError(f"--before is {commit!r}: {done.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        return build(Path(folder), wanted)


def feed_forward(
    seconds: Mapping[PredictedProduct, float], size: int, copied: bool, machine: AssumedGpu = H100
) -> float:
    """Predict the seconds of the 27B's experts for `TOKENS`: both products and the passes between them.

    Args:
        seconds: of each product. size: bytes of an operand's value. copied: whether rows are copied before the first
            product.
    """
    products = sum(time for product, time in seconds.items() if product.m == ROWS and product.size == size)
    moved = 2.0 * DIM * (ROWS + TOKENS)  # the weighted sum
    if copied:
        moved += size * DIM * (ROWS + TOKENS)
    if size == 1:
        moved += 3.0 * ROWS * HIDDEN  # quantised after GELU
    return products + moved / (PASSES * machine.copy)


def page(record: dict[str, Any]) -> str:
    """Format the page."""
    where = record["environment"]
    lines = [
        "# PREDICTION: matrix products on an H100, before and after",
        "",
        "**Nothing here was measured on a GPU.** Registers, shared memory and instructions are counted in code",
        "compiled for sm_90a; TFLOP/s and milliseconds are those of a model (`benchmarks/gemm_prediction.py`). In it,",
        "the main loop takes the longest of the tensor cores' time (at cuBLAS's published 798 TFLOP/s, twice that in",
        "fp8), that of operands from L2 (at 7 TB/s) and that of issue; the rest of a tile overlaps with loads only.",
        "Tiles are full; the last wave is not counted.",
        "",
        f"`{where['command']}`, {where['date']}. Before: commit {record['before']}; now: {commit_of(where)}.",
        "",
        "| product | | tile | flattened | warps | registers | shared | loop | rest | special | limit | TFLOP/s |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    for row in record["rows"]:
        for when in ("before", "now"):
            one = row[when]
            cells = [row["name"], when, "x".join(map(str, one["block"])), "yes" if one["flatten"] else "no"]
            cells += [str(one[name]) for name in ("warps", "registers", "shared", "loop", "rest", "special")]
            cells += [one["limit"], f"{one['tflops']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Loop: instructions of one pass of the loop over K; rest: all others of a tile (epilogue, finding the next",
        f"one); special: those of the rest for the special function unit. Spilled: {record['spilled']} bytes.",
        "",
        f"Experts of the 27B, {TOKENS:,} tokens (copy in the order of the experts, both products, quantisation of what",
        "GELU makes, weighted sum), by the same model, passes at 85 % of a copy's 3 TB/s:",
        "",
        "| | before | now |",
        "|---|---:|---:|",
        *(f"| {name} | {was:.2f} ms | {is_:.2f} ms |" for name, was, is_ in record["feed_forward"]),
        "",
        "Before, the bf16 product gathered its rows by cp.async; fp8 products never did, so their rows had to be",
        "copied. In fp8, GELU has moved from the product's epilogue into the pass that quantises its result.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("gemm_prediction", __doc__)
    options.add_argument("--before", required=True, metavar="COMMIT", help="the commit to compare with")
    options.add_argument("--out", type=Path, help=OUT_HELP)
    args = options.parse_args(arguments)
    try:
        was = build_commit(args.before, [(product.module, product.before) for product in PRODUCTS])
        is_ = build(REPOSITORY, [(product.module, product.now) for product in PRODUCTS])
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = [{"name": product.name} for product in PRODUCTS]
    old: dict[PredictedProduct, float] = {}
    new: dict[PredictedProduct, float] = {}
    for product, row in zip(PRODUCTS, rows, strict=True):
        tiles = {"before": was[product.module, product.before], "now": is_[product.module, product.now]}
        for (when, tile), seconds in zip(tiles.items(), (old, new), strict=True):
            found = reach(tile, product.k, product.size)
            row[when] = {**vars(tile), "limit": found.limit, "tflops": found.tflops}
            seconds[product] = 2.0 * product.m * product.k * product.n / (found.tflops * 1e12)
    totals = [
        ("bf16", 1e3 * feed_forward(old, 2, copied=False), 1e3 * feed_forward(new, 2, copied=True)),
        ("fp8", 1e3 * feed_forward(old, 1, copied=True), 1e3 * feed_forward(new, 1, copied=True)),
    ]
    record = {
        "prediction": "not measured: a model over counted instructions",
        "environment": header(command_line("gemm_prediction", arguments)),
        "before": args.before,
        "machine": vars(H100),
        "spilled": sum(tile.spilled for tile in (*was.values(), *is_.values())),
        "rows": rows,
        "feed_forward": totals,
    }
    text = page(record)
    print(text)
    command.write_results(args.out, record, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
