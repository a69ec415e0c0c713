"""Run every benchmark small, and check what it writes.

    python -m zoetrope.benchmarks.smoke
    python -m zoetrope.benchmarks.smoke --only step,scaling --keep out/smoke

Results are held against their schema, and pages against results; the figures of such runs mean nothing. A benchmark
that this machine cannot run is listed with what it needs. Each has a process of its own, which is forked from one that
has imported torch and what else takes seconds to import.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path

import psutil

from zoetrope.benchmarks import command
from zoetrope.benchmarks.registry import BENCHMARKS, Benchmark
from zoetrope.benchmarks.results_files import ResultError, read_results

LIMIT = 400.0  # seconds of one benchmark
WORKERS = 3  # more than two cores, for services wait while they start
TAIL = 5  # lines of what a failed benchmark printed
IMPORTED_ONCE = ("torch", "diffusers", "transformers", "zoetrope.benchmarks.registry", "zoetrope.model.pipeline")
LONGEST = (  # begun first, in this order
    "packed_throughput",
    "served_step",
    "simulate.compare",
    "scheduling",
    "eta_error",
    "serving_load",
    "busy",
    "peers",
    "gateway",
    "compile_gain",
)
_asking = threading.Lock()  # one thread at a time asks what became of processes: a status can be read only once
_processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class SmokeRun:
    """What became of a benchmark. ``lacks``: what it needs; ``problem``: why its run does not count."""

    name: str
    seconds: float = 0.0
    files: tuple[str, ...] = ()
    lacks: str | None = None
    problem: str | None = None

    def __str__(self) -> str:
        if self.lacks is not None:
            return f"{self.name}: not run, {self.lacks}"
        if self.problem is not None:
            return f"{self.name}: FAILED after {self.seconds:.1f} s: {self.problem}"
        return f"{self.name}: {self.seconds:.1f} s, {', '.join(self.files) or 'prints only'}"


def run(benchmark: Benchmark, folder: Path) -> SmokeRun:
    """Run a benchmark small, in a process of its own, and check the results that it leaves in ``folder``."""
    if (lacks := benchmark.missing()) is not None:
        return SmokeRun(benchmark.name, lacks=lacks)
    folder.mkdir(parents=True)
    given = [*benchmark.smoke, *(["--out", str(folder / benchmark.name)] if benchmark.record is not None else [])]
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        process = _processes.Process(target=_call, args=(benchmark.name, given, log), name=benchmark.name)
        started = time.monotonic()
        with _asking:
            process.start()
        wait([process.sentinel], LIMIT)
        seconds = time.monotonic() - started
        with _asking:
            status = process.exitcode
        if status is None:
            _kill(process.pid)
            wait([process.sentinel])
            return SmokeRun(benchmark.name, seconds, problem="it did not end")
        said = log.read_text(errors="replace") if log.exists() else ""
    if status not in benchmark.passes:
        last = "\n  ".join(said.strip().splitlines()[-TAIL:])
        return SmokeRun(benchmark.name, seconds, problem=f"exit status {status}\n  {last}")
    try:
        files = check(benchmark, folder, said)
    except ResultError as error:
        return SmokeRun(benchmark.name, seconds, problem=str(error))
    return SmokeRun(benchmark.name, seconds, files)


def in_order(benchmarks: Iterable[Benchmark]) -> list[Benchmark]:
    """Return the order to begin them in: `LONGEST` first, the quick ones last."""
    places = {name: place for place, name in enumerate(LONGEST)}
    return sorted(benchmarks, key=lambda one: (one.quick, places.get(one.name, len(places))))


def _call(name: str, arguments: list[str], log: Path) -> None:
    """Run a benchmark in this process, which is its own; what it and its processes print goes to ``log``."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    sys.exit(entry(name)(arguments))


def entry(name: str) -> Callable[[list[str]], int]:
    """Return the function that a benchmark's module runs."""
    module = import_module(f"zoetrope.benchmarks.{name}")
    if not hasattr(module, "main"):
        module = import_module(f"zoetrope.benchmarks.{name}.__main__")
    main: Callable[[list[str]], int] = module.main
    return main


def _kill(pid: int | None) -> None:
    """Kill a process and all that it started."""
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def check(benchmark: Benchmark, folder: Path, printed: str) -> tuple[str, ...]:
    """Check what a run left; return the names of its files.

    Raises:
        ResultError: nothing was written or printed, a file is of another benchmark or has not what its schema says, or
            the page is not the record's.
    """
    if benchmark.record is None:
        if not printed.strip():
            raise ResultError(f"{benchmark.name} printed nothing")
        return ()
    found = read_results(folder)
    if not found:
        raise ResultError(f"{benchmark.name} wrote no results")
    for result in found:
        if result.benchmark.name != benchmark.name:
            raise ResultError(f"{result.path.name} says that {result.benchmark.name} made it, not {benchmark.name}")
        result.check_page()
    return tuple(sorted(path.name for path in folder.rglob("*") if path.is_file()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("smoke", __doc__)
    parser.add_argument("--only", help="names by commas (default: all)")
    parser.add_argument("--quick", action="store_true", help="only those that take seconds and start no process")
    parser.add_argument(
        "--workers", type=command.at_least(1), default=WORKERS, help=f"benchmarks at a time (default: {WORKERS})"
    )
    parser.add_argument("--keep", type=Path, help="folder for what they write (default: it is removed)")
    args = parser.parse_args(arguments)
    names = [name.strip() for name in args.only.split(",")] if args.only else list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"--only: {unknown[0]!r} must be of {', '.join(BENCHMARKS)}")
    if args.keep is not None and args.keep.exists() and any(args.keep.iterdir()):
        parser.error(f"--keep: {args.keep} must be empty or new")
    chosen = [BENCHMARKS[name] for name in names if BENCHMARKS[name].quick or not args.quick]
    _processes.set_forkserver_preload([*IMPORTED_ONCE])
    started, runs = time.monotonic(), list[SmokeRun]()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.workers) as pool:
        folder: Path = args.keep or Path(temporary)
        for future in as_completed(pool.submit(run, one, folder / one.name) for one in in_order(chosen)):
            runs.append(future.result())
            print(runs[-1], flush=True)
    failed = [one.name for one in runs if one.problem is not None]
    lacking = sum(one.lacks is not None for one in runs)
    print(
        f"{len(runs) - lacking - len(failed)} of {len(runs)} benchmarks wrote valid results in "
        f"{time.monotonic() - started:.0f} s, {lacking} were not run"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
