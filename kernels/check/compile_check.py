"""Compile every kernel for Hopper on a machine without a GPU, and report figures of the code.

    python -m zoetrope.kernels.check.compile_check                  print the table; exit 1 if a rule is broken
    python -m zoetrope.kernels.check.compile_check --out kernels/check/compile_check.md     and write the table
    python -m zoetrope.kernels.check.compile_check --check          and fail if the committed table differs
    python -m zoetrope.kernels.check.compile_check --check --sample figures of one variant of each kernel, all names
    python -m zoetrope.kernels.check.compile_check --only attention/gluon             those whose names begin so

Every variant is compiled anew. One that crashes its process is reported like any other failure. Registers, stack and
spills are as reported by ptxas; warpgroup matrix instructions (wgmma), tensor memory copies (TMA) and register
handovers (setmaxnreg) are counted in the PTX.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from zoetrope.kernels.check.compile_table import CompileTable, Figures, broken_rules, differences
from zoetrope.kernels.select.fingerprint import ROOT, digest
from zoetrope.kernels.select.proofs import triton_version

if TYPE_CHECKING:
    from zoetrope.kernels.gpu.variant import Variant

TABLE = Path(__file__).parent / "compile_check.md"
COMMAND = "python -m zoetrope.kernels.check.compile_check --out kernels/check/compile_check.md"
PACKAGE = "gpu"
LIMIT = 300.0  # seconds for one variant


def sources() -> str:
    """Return the fingerprint of all kernel sources."""
    return digest((ROOT / "kernels" / PACKAGE).rglob("*.py"))


def all_variants(prefix: str = "") -> list[Variant]:
    """List the variants of all modules with kernels, by name.

    Raises:
        ValueError: two variants have one name.
    """
    found: dict[str, Variant] = {}
    package = importlib.import_module(f"zoetrope.kernels.{PACKAGE}")
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for variant in getattr(module, "variants", list)():
            if variant.name in found:
                raise ValueError(f"{info.name}: there are two variants named {variant.name!r}")
            found[variant.name] = variant
    return [found[name] for name in sorted(found) if name.startswith(prefix)]


def one_of_each_kernel(variants: Iterable[Variant]) -> list[Variant]:
    """Return the first variant of each kernel, and of each set of instructions that its variants must contain."""
    first: dict[tuple[object, ...], Variant] = {}
    for variant in variants:
        needs = (variant.gluon, variant.wgmma, variant.tma, variant.setmaxnreg)
        first.setdefault((variant.kernel, *needs), variant)
    return list(first.values())


class CompileWorker:
    """A process that compiles one variant after another, until one crashes it."""

    def __init__(self, variants: Sequence[Variant], scratch: Path) -> None:
        context = multiprocessing.get_context("fork")  # it inherits triton, torch and the variants
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(variants, other, scratch), daemon=True)
        self.process.start()
        other.close()
        self.log = scratch / f"{self.process.pid}.log"
        self.index = -1
        self.since = 0.0

    def begin(self, index: int) -> None:
        self.index, self.since = index, time.monotonic()
        self.connection.send(index)

    @property
    def late(self) -> bool:
        return time.monotonic() - self.since > LIMIT

    def answer(self) -> Figures | str:
        """Wait for the figures, or for a description of the failure."""
        if not self.connection.poll():
            return f"took more than {LIMIT:.0f} s"
        try:
            found: Figures | str = self.connection.recv()
            return found
        except EOFError:  # it died without an answer
            self.process.join()
            return f"the compiler ended with code {self.process.exitcode}: {_tail(self.log)}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def compile_all(
    variants: Sequence[Variant], jobs: int, progress: bool = False
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Return the figures of those that compile, and descriptions of the other failures, both by name."""
    figures: dict[str, Figures] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="zoetrope-compile-") as scratch:
        waiting = iter(range(len(variants)))
        busy: dict[Connection, CompileWorker] = {}
        for index in islice(waiting, jobs):
            worker = CompileWorker(variants, Path(scratch))
            worker.begin(index)
            busy[worker.connection] = worker
        while busy:
            ready = wait(list(busy), timeout=1.0)
            for worker in [worker for worker in busy.values() if worker.connection in ready or worker.late]:
                name, answer = variants[worker.index].name, worker.answer()
                del busy[worker.connection]
                if isinstance(answer, Figures):
                    figures[name] = answer
                else:
                    failures[name] = answer
                if progress:
                    done = f"{len(figures) + len(failures)}/{len(variants)}"
                    seconds = time.monotonic() - worker.since
                    print(f"[{done}] {name} {seconds:.1f} s", file=sys.stderr, flush=True)
                following = next(waiting, None)
                if following is None or not worker.process.is_alive() or worker.late:
                    worker.end()
                    worker = CompileWorker(variants, Path(scratch)) if following is not None else worker
                if following is not None:
                    worker.begin(following)
                    busy[worker.connection] = worker
    return figures, failures


def _serve(variants: Sequence[Variant], connection: Connection, scratch: Path) -> None:
    from zoetrope.kernels.check.compile_one import compile_variant

    log = os.open(scratch / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)  # LLVM writes there without asking Python
    os.dup2(log, 2)
    while True:
        index = connection.recv()
        os.truncate(log, 0)
        try:
            connection.send(compile_variant(variants[index], scratch / f"cache-{os.getpid()}"))
        except Exception as error:
            what = str(error).strip()[-2000:]
            connection.send(f"{type(error).__name__}: {what} {_tail(scratch / f'{os.getpid()}.log')}")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-1000:].strip() if path.is_file() else ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the table there")
    parser.add_argument("--check", action="store_true", help=f"fail if {TABLE.name} says something else")
    parser.add_argument("--only", default="", metavar="PREFIX", help="variants whose names begin so")
    parser.add_argument("--sample", action="store_true", help="compile one variant of each kernel")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at once")
    args = parser.parse_args(arguments)
    if args.out and (args.only or args.sample):
        parser.error("--out needs all variants: omit --only and --sample")
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}: it must be at least 1")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        print("error: TRITON_INTERPRET is set: in the interpreter nothing is compiled; unset it", file=sys.stderr)
        return 2
    version = triton_version()
    if version is None:
        print("error: triton is not installed; on Linux it comes with `pip install triton`", file=sys.stderr)
        return 2
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same table on every machine
    from zoetrope.kernels.check.compile_one import ptxas_version

    start = time.monotonic()
    variants = all_variants(args.only)
    listed = [variant.name for variant in variants]
    if args.sample:
        variants = one_of_each_kernel(variants)
    figures, failures = compile_all(variants, args.jobs, progress=True)
    table = CompileTable(version, ptxas_version(), sources(), figures)
    print(table.markdown(COMMAND))
    broken = [f"{name}: does not compile: {failures[name]}" for name in sorted(failures)]
    for variant in variants:
        if variant.name in figures:
            rules = broken_rules(figures[variant.name], variant.wgmma, variant.tma, variant.setmaxnreg)
            broken += [f"{variant.name}: {rule}" for rule in rules]
    seconds = time.monotonic() - start
    print(f"{len(figures)} of {len(variants)} variants compiled in {seconds:.0f} s, {len(broken)} broken rules")
    for line in broken:
        print(f"error: {line}", file=sys.stderr)
    if args.out and not broken:
        args.out.write_text(table.markdown(COMMAND))
        print(f"wrote {args.out}")
    stale: list[str] = []
    if args.check:
        stale, skipped = differences(CompileTable.read(TABLE), table, args.only, listed)
        if skipped:
            print(f"figures not compared with {TABLE.name}: {skipped}")
        for line in stale:
            print(f"error: {line}", file=sys.stderr)
        if stale:
            print(f"error: {TABLE.name} is stale: run {COMMAND}", file=sys.stderr)
    return 1 if broken or stale else 0


if __name__ == "__main__":
    sys.exit(main())
