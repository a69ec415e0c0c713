"""The command line of the kernel benchmark; see the package docstring."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import zoetrope.benchmarks.kernels as package
from zoetrope.benchmarks.environment import file_name, header
from zoetrope.benchmarks.kernels import tune
from zoetrope.benchmarks.kernels.contenders import DeviceLost, check_device
from zoetrope.benchmarks.kernels.correctness import (
    Finding,
    cases_of,
    examine,
    needed_by,
    proofs_of,
    still_proved,
    wrong_kernels,
)
from zoetrope.benchmarks.kernels.plot import plot
from zoetrope.benchmarks.kernels.report import markdown
from zoetrope.benchmarks.kernels.results import NOTICE, Results
from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.section_attention import attention
from zoetrope.benchmarks.kernels.section_bounds import bounds
from zoetrope.benchmarks.kernels.section_gemm import grouped_gemm
from zoetrope.benchmarks.kernels.section_layer import layer
from zoetrope.benchmarks.kernels.section_moe import moe
from zoetrope.benchmarks.kernels.section_passes import passes
from zoetrope.benchmarks.kernels.shapes import FULL, TINY
from zoetrope.benchmarks.kernels.targets import copy_bandwidth, judge
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.kernels.gpu.tiles import DATA, device_table
from zoetrope.kernels.select.proofs import PROOFS, record

SECTIONS: dict[str, Callable[[Bench], Rows]] = {
    "grouped_gemm": grouped_gemm,
    "moe": moe,
    "attention": attention,
    "passes": passes,
    "layer": layer,
}
COMMAND = "python -m zoetrope.benchmarks.kernels"
NO_GPU = f"""error: there is no CUDA device to measure. On an H100 or H200:

    {COMMAND} --tune
    {COMMAND}

or in calls of about ten minutes, each repeated until it reports that it is done:

    for part in {" ".join(SECTIONS)}; do {COMMAND} --only $part --resume --limit 500; done

To run a smoke test here at toy sizes: {COMMAND} --tiny --device cpu"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="parts to run (default: all)"
    )
    parser.add_argument("--tokens", nargs="+", type=int, help="token counts (default 8192 32768 75600)")
    out = REPOSITORY / "benchmarks" / "results" / "kernels"
    parser.add_argument("--out", type=Path, default=out, help="folder of the results (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder for proofs and tiles (default: %(default)s)")
    parser.add_argument("--correctness-only", action="store_true", help="check correctness, time nothing")
    parser.add_argument(
        "--tune", action="store_true", help="tune tile sizes and write the device's table, time nothing"
    )
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no new case is started")
    parser.add_argument("--resume", action="store_true", help="skip cases that this commit already has in the results")
    parser.add_argument("--seed", type=int, help="seed of the random inputs (default: random)")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="use toy sizes, as a smoke test")
    args = parser.parse_args(arguments)
    if args.tokens and min(args.tokens) < 1:
        parser.error(f"--tokens must be at least 1, not {min(args.tokens)}")
    return args


class BenchmarkRun:
    """One run of the benchmark."""

    def __init__(self, args: argparse.Namespace, command: str) -> None:
        self.args = args
        self.start = time.monotonic()
        device = torch.device(args.device)
        self.gpu = device.type == "cuda"
        if self.gpu:
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        seed = args.seed if args.seed is not None else time.time_ns() % (1 << 31)
        scope = TINY if args.tiny else FULL
        kernels = self.gpu or os.environ.get("TRITON_INTERPRET") == "1"
        self.bench = Bench(scope, device, seed, kernels, tuple(args.tokens or scope.tokens))
        self.header = header(device, command, seed)
        name = file_name(device) + ("-tiny" if args.tiny and self.gpu else "")
        self.results = Results(args.out, name, self.header, smoke=not self.gpu)
        self.findings: list[Finding] = []
        print(f"{self.header['device']}, seed {seed}", flush=True)

    @property
    def out_of_time(self) -> bool:
        """Tell whether the time limit has passed."""
        limit: float = self.args.limit
        return time.monotonic() - self.start > limit

    def examine(self, parts: list[str]) -> bool:
        """Check correctness and, on a GPU at full sizes, record proofs. Returns whether all parts were done."""
        for part in parts:
            found: list[Finding] = []
            for case in cases_of(part, self.bench.inputs(0)):
                if self.out_of_time:
                    return False
                found.append(examine(case))
                if self.gpu:
                    self.free_memory(found)
            self.findings += found
            self.results.add_findings(found)
            if self.gpu and not self.args.tiny:
                proofs, failed = proofs_of(found, self.bench.device)
                record(proofs, failed=failed, path=self.args.data / PROOFS.name)
            right = sum(finding.right for finding in found)
            print(f"{part}: {right} of {len(found)} cases right", flush=True)
        self.bench.wrong = wrong_kernels(self.findings)
        for kernel, problem in self.bench.wrong.items():
            print(f"WRONG {'/'.join(kernel)}: {problem}", flush=True)
        return True

    def free_memory(self, found: list[Finding]) -> None:
        """Free the memory of the last case. If it broke the device, revoke its kernel's proof and raise DeviceLost."""
        last = found[-1]
        try:
            check_device(f"{last.op}/{last.backend} {last.dtype} {last.name}")
        except DeviceLost:
            record([], failed=proofs_of([last], self.bench.device)[1], path=self.args.data / PROOFS.name)
            self.results.add_findings([last])
            raise
        torch.cuda.empty_cache()

    def needed(self) -> list[str]:
        """Return the parts to check: those requested, and those that they need without a valid proof on disk."""
        path, requested = self.args.data / PROOFS.name, self.args.only
        return [
            part
            for part in needed_by(requested)
            if not ((self.args.resume or part not in requested) and still_proved(part, self.bench.device, path))
        ]

    def time(self) -> bool:
        """Time the requested sections, saving case by case. Returns whether all were done."""
        if self.args.resume:
            commit = self.header["commit"]
            stored = [row for row in self.results.rows if self.results.runs[row["run"]]["commit"] == commit]
            self.bench.done = {(row["section"], row["case"]) for row in stored if row["section"] != "bounds"}
        limits = [row for rows in bounds(self.bench) for row in rows]
        self.results.add_rows(limits, [])
        print(f"copy: {copy_bandwidth(limits) or 0:.3f} TB/s", flush=True)
        for part in self.args.only:
            for rows in SECTIONS[part](self.bench):
                verdicts = judge([*limits, *rows])
                if not self.gpu:  # a CPU's ratios say nothing about the targets
                    verdicts = [replace(verdict, measured=None, note=NOTICE) for verdict in verdicts]
                self.results.add_rows(rows, verdicts)
                for row in rows:
                    what = f"{1000 * row.seconds:.3f} ms" if row.seconds else f"absent: {row.absent}"
                    print(f"{part} | {row.case} | {row.name}: {what}", flush=True)
                if self.out_of_time:
                    return False
        return True

    def tune(self) -> bool:
        """Tune the tiles of the requested sections. Returns whether all were done; proofs are renewed afterwards."""
        table = device_table(self.bench.device)
        if table is None:
            print(f"error: there is no table for {self.header['device']} (kernels/gpu/tiles.py)", file=sys.stderr)
            return False
        for part in self.args.only:
            for problem in tune.problems(self.bench, part):
                tried = tune.solve(problem, self.bench)
                tune.write(table, [tried], self.header, self.args.data)
                print(
                    f"{tried.key}: {tried.tile or 'unchanged'}, x {tried.gain:.3f}, {tried.failed} failed", flush=True
                )
                if self.out_of_time:
                    return False
        tune.reload_tables()
        return True

    def report(self) -> None:
        """Write the results, the page and the plot."""
        self.results.save()
        data, path = self.results.as_dict(), self.results.path
        path.with_suffix(".md").write_text(markdown(data))
        reason = plot(data, path.with_suffix(".png"))
        drawn = f"no plot: {reason}" if reason else f"plot {path.with_suffix('.png').name}"
        print(f"wrote {path}, table {path.with_suffix('.md').name}, {drawn}")


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    if args.device == "cpu" and (not args.tiny or args.tune):
        print("error: a CPU runs toy sizes only: --tiny, without --tune", file=sys.stderr)
        return 2
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is loaded, for reproducible results
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    run = BenchmarkRun(args, " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)]))
    if not run.gpu:
        print(NOTICE)
    try:
        done = run.examine(run.needed())
        if done and args.tune:
            done = run.tune() and run.examine(needed_by(args.only))
        elif done and not args.correctness_only:
            done = run.time()
    except DeviceLost as lost:
        print(f"error: the GPU was lost by {lost}", file=sys.stderr)
        run.report()
        return 1
    run.report()
    print("all done" if done else "out of time: run again with --resume and the remaining parts in --only")
    return 1 if run.bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
