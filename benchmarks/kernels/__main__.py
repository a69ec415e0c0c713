"""The command line of the kernel benchmark; see the package."""

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

import benchmarks.kernels as package
from benchmarks.kernels import tune
from benchmarks.kernels.contenders import DeviceLost, still_there
from benchmarks.kernels.correctness import Finding, cases_of, examine, needed_by, proofs_of, stands, wrong_kernels
from benchmarks.kernels.environment import REPOSITORY, file_name, header
from benchmarks.kernels.plot import plot
from benchmarks.kernels.report import markdown
from benchmarks.kernels.results import NOTICE, Results
from benchmarks.kernels.section import Bench, Rows
from benchmarks.kernels.section_attention import attention
from benchmarks.kernels.section_bounds import bounds
from benchmarks.kernels.section_gemm import grouped_gemm
from benchmarks.kernels.section_layer import layer
from benchmarks.kernels.section_moe import moe
from benchmarks.kernels.section_passes import passes
from benchmarks.kernels.shapes import FULL, TINY
from benchmarks.kernels.targets import copy_bandwidth, judge
from kernels.proofs import PROOFS, record
from kernels.tiles import DATA, device_table

SECTIONS: dict[str, Callable[[Bench], Rows]] = {
    "grouped_gemm": grouped_gemm,
    "moe": moe,
    "attention": attention,
    "passes": passes,
    "layer": layer,
}
COMMAND = "python -m benchmarks.kernels"
NO_GPU = f"""error: there is no CUDA device, and without one there is no figure to give. On an H100 or H200:

    {COMMAND} --tune
    {COMMAND}

or in calls of at most ten minutes, each as often as it takes to say that all is done:

    for part in {" ".join(SECTIONS)}; do {COMMAND} --only $part --resume --limit 500; done

To try the machinery here at toy sizes: {COMMAND} --tiny --device cpu"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="parts to run")
    parser.add_argument("--tokens", nargs="+", type=int, help="token counts (default 8192 32768 75600)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "kernels")
    parser.add_argument("--data", type=Path, default=DATA, help="where a GPU run leaves its proofs and tiles")
    parser.add_argument("--correctness-only", action="store_true")
    parser.add_argument("--tune", action="store_true", help="try tiles, write the device's table, time nothing")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing new is begun")
    parser.add_argument("--resume", action="store_true", help="leave out what this commit already has in the results")
    parser.add_argument("--seed", type=int, help="of the random inputs; another one for every run if not given")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to test the machinery")
    args = parser.parse_args(arguments)
    if args.tokens and min(args.tokens) < 1:
        parser.error(f"--tokens is {min(args.tokens)}: it must be at least 1")
    return args


class Run:
    """One invocation."""

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
    def late(self) -> bool:
        limit: float = self.args.limit
        return time.monotonic() - self.start > limit

    def examine(self, parts: list[str]) -> bool:
        """Correctness; proofs are recorded of a full examination on a GPU. Whether all of it was done."""
        for part in parts:
            found: list[Finding] = []
            for case in cases_of(part, self.bench.inputs(0)):
                if self.late:
                    return False
                found.append(examine(case))
                if self.gpu:
                    self.keep_going(found)
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

    def keep_going(self, found: list[Finding]) -> None:
        """Free the memory of a case. If it broke the device, its kernel loses its proof, and the run ends."""
        last = found[-1]
        try:
            still_there(f"{last.op}/{last.backend} {last.dtype} {last.name}")
        except DeviceLost:
            record([], failed=proofs_of([last], self.bench.device)[1], path=self.args.data / PROOFS.name)
            self.results.add_findings([last])
            raise
        torch.cuda.empty_cache()

    def needed(self) -> list[str]:
        """The parts to examine: those asked for, and those they need where the proofs on disk do not say enough."""
        path, asked = self.args.data / PROOFS.name, self.args.only
        return [
            part
            for part in needed_by(asked)
            if not ((self.args.resume or part not in asked) and stands(part, self.bench.device, path))
        ]

    def time(self) -> bool:
        """Every section that was asked for, saved case by case. Whether all of it was done."""
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
                if not self.gpu:  # the ratios of a CPU say nothing about the targets
                    verdicts = [replace(verdict, measured=None, note=NOTICE) for verdict in verdicts]
                self.results.add_rows(rows, verdicts)
                for row in rows:
                    what = f"{1000 * row.seconds:.3f} ms" if row.seconds else f"absent: {row.absent}"
                    print(f"{part} | {row.case} | {row.name}: {what}", flush=True)
                if self.late:
                    return False
        return True

    def tune(self) -> bool:
        """Tiles of every key of the sections asked for; what is right after it is proved anew."""
        table = device_table(self.bench.device)
        if table is None:
            print(f"error: there is no table for {self.header['device']} (kernels/tiles.py)", file=sys.stderr)
            return False
        for part in self.args.only:
            for problem in tune.problems(self.bench, part):
                tried = tune.solve(problem, self.bench)
                tune.write(table, [tried], self.header, self.args.data)
                print(f"{tried.key}: {tried.tile or 'as it is'}, x {tried.gain:.3f}, {tried.failed} failed", flush=True)
                if self.late:
                    return False
        tune.forget()
        return True

    def report(self) -> None:
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
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is loaded: results that repeat
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    run = Run(args, " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)]))
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
    print("all is done" if done else "not all is done: run it again with --resume and what is left in --only")
    return 1 if run.bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
