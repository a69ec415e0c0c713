"""One run of the kernel benchmark: correctness first, then tiles or times, each saved as soon as it is known."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

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
from zoetrope.benchmarks.kernels.section import Bench
from zoetrope.benchmarks.kernels.section_bounds import bounds
from zoetrope.benchmarks.kernels.sections import SECTIONS
from zoetrope.benchmarks.kernels.selection import Kernel, Selection
from zoetrope.benchmarks.kernels.shapes import FULL, TINY, models_named
from zoetrope.benchmarks.kernels.targets import copy_bandwidth, judge
from zoetrope.benchmarks.kernels.tune import TuningProblem
from zoetrope.kernels.gpu.tiles import device_table, read_tiles_of
from zoetrope.kernels.select.proofs import PROOFS, record, record_speeds


class BenchmarkRun:
    """One run of the benchmark.

    Args:
        args: as `__main__.parse` gives them. command: what was typed. data: the folder of proofs and tiles.
    """

    def __init__(self, args: argparse.Namespace, command: str, results: Path, data: Path) -> None:
        self.args = args
        self.data = data
        self.proofs = data / PROOFS.name
        self.start = time.monotonic()
        device = torch.device(args.device)
        self.gpu = device.type == "cuda"
        if self.gpu:
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        seed = args.seed if args.seed is not None else time.time_ns() % (1 << 31)
        scope = TINY if args.tiny else replace(FULL, models=models_named(args.models))
        kernels = self.gpu or os.environ.get("TRITON_INTERPRET") == "1"
        self.selection = Selection(tuple(args.kernel), tuple(args.backend), tuple(args.dtype))
        tokens = tuple(args.tokens or scope.tokens)
        self.bench = Bench(scope, device, seed, kernels, tokens, selection=self.selection)
        self.header = {**header(device, command, seed), "selection": self.selection.as_dict()}
        name = file_name(device) + ("-tiny" if args.tiny and self.gpu else "")
        self.results = Results(results, name, self.header, smoke=not self.gpu)
        self.findings: dict[Kernel, list[Finding]] = {}
        read_tiles_of(data)
        print(f"{self.header['device']}, seed {seed}", flush=True)

    @property
    def out_of_time(self) -> bool:
        """Tell whether the time limit has passed."""
        limit: float = self.args.limit
        return time.monotonic() - self.start > limit

    def examine(self, parts: Iterable[str], selection: Selection | None = None, *, limited: bool = True) -> bool:
        """Check the correctness of the selected kernels and, on a GPU at full sizes, record proofs.

        Args:
            selection: by default what the command line names. limited: stop when the time limit has passed.

        Returns:
            Whether all parts were done.
        """
        for part in parts:
            found: list[Finding] = []
            for case in cases_of(part, self.bench.inputs(0), selection or self.selection):
                if limited and self.out_of_time:
                    return False
                found.append(examine(case))
                if self.gpu:
                    self.free_memory(found)
            self.keep(found)
            right = sum(finding.right for finding in found)
            print(f"{part}: {right} of {len(found)} cases right", flush=True)
        for kernel, problem in self.bench.wrong.items():
            print(f"WRONG {'/'.join(str(fact) for fact in kernel if fact is not None)}: {problem}", flush=True)
        return True

    def keep(self, found: list[Finding]) -> None:
        """Save all findings of some kernels, which replace older ones of the same, and record what they prove."""
        for kernel in {finding.kernel for finding in found}:
            self.findings[kernel] = [finding for finding in found if finding.kernel == kernel]
        self.results.add_findings(found)
        if self.gpu and not self.args.tiny:
            proofs, failed = proofs_of(found, self.bench.device)
            record(proofs, failed=failed, path=self.proofs)
        self.bench.wrong = wrong_kernels([finding for of_one in self.findings.values() for finding in of_one])

    def free_memory(self, found: list[Finding]) -> None:
        """Free the memory of the last case. If it broke the device, revoke its kernel's proof and raise DeviceLost."""
        last = found[-1]
        try:
            check_device(f"{last.op}/{last.backend} {last.dtype} {last.name}")
        except DeviceLost:
            lost = replace(last, problem=last.problem or "the GPU was lost after it")
            record([], failed=proofs_of([lost], self.bench.device)[1], path=self.proofs)
            self.results.add_findings([lost])
            raise
        torch.cuda.empty_cache()

    def needed(self) -> list[str]:
        """Return the parts to check: those requested, and those that they need without a valid proof on disk."""
        requested = self.args.only
        return [
            part
            for part in needed_by(requested)
            if not (
                (self.args.resume or part not in requested)
                and still_proved(part, self.bench.device, self.proofs, self.selection)
            )
        ]

    def time(self) -> bool:
        """Time the requested sections, saving case by case. Returns whether all were done."""
        if self.args.resume:
            facts = ("commit", "selection")
            same = {run for run, of in self.results.runs.items() if all(of.get(f) == self.header[f] for f in facts)}
            stored = [row for row in self.results.rows if row["run"] in same]
            self.bench.done = {(row["section"], row["case"]) for row in stored if row["section"] != "bounds"}
        limits = [row for rows in bounds(self.bench) for row in rows]
        self.results.add_rows(limits, [])
        print(f"copy: {copy_bandwidth(limits) or 0:.3f} TB/s", flush=True)
        for part in self.args.only:
            for rows in SECTIONS[part](self.bench):
                verdicts = judge([*limits, *rows])
                if not self.gpu:  # a CPU's ratios say nothing about the targets
                    verdicts = [replace(verdict, measured=None, note=NOTICE) for verdict in verdicts]
                self.results.add_rows(rows, verdicts, beside=not self.selection.all)
                self.record_speeds()
                for row in rows:
                    what = f"{1000 * row.seconds:.3f} ms" if row.seconds else f"absent: {row.absent}"
                    print(f"{part} | {row.case} | {row.name}: {what}", flush=True)
                if self.out_of_time:
                    return False
        return True

    def record_speeds(self) -> None:
        """Put what was measured beside the proofs; at toy sizes and on a CPU it says nothing."""
        if self.bench.speeds and self.gpu and not self.args.tiny:
            record_speeds(self.bench.speeds, self.proofs)
        self.bench.speeds.clear()

    def tune(self) -> bool:
        """Tune the tiles of the requested sections, and prove anew what runs with other tiles since.

        A time limit stops the tuning, never the proofs: a kernel whose tiles were changed has none until then.

        Returns:
            Whether all were tuned.
        """
        table = device_table(self.bench.device)
        if table is None:
            print(f"error: there is no table for {self.header['device']} (kernels/gpu/tiles.py)", file=sys.stderr)
            return False
        changed: set[Kernel] = set()
        done = True
        for problem in self.tuning_problems():
            tried = tune.solve(problem, self.bench)
            if tried.tile is not None:
                tune.write(table, [tried], self.header, self.data)
                changed.add(problem.kernel)
            print(f"{tried.key}: {tried.tile or 'unchanged'}, x {tried.gain:.3f}, {tried.failed} failed", flush=True)
            if self.out_of_time:
                done = False
                break
        read_tiles_of(self.data)
        kernels = Selection(
            kernels=tuple(sorted({f"{op}/{backend}" for op, backend, _, _ in changed})),
            dtypes=tuple(sorted({dtype for _, _, dtype, _ in changed})),
        )
        if changed:
            self.examine(needed_by(self.args.only), kernels, limited=False)
        return done

    def tuning_problems(self) -> Iterable[TuningProblem]:
        """Yield the keys to tune: those of selected kernels that were right."""
        for part in self.args.only:
            for problem in tune.problems(self.bench, part):
                op, backend, dtype, _ = problem.kernel
                if self.selection.takes(op, backend, dtype) and problem.kernel not in self.bench.wrong:
                    yield problem

    def report(self) -> None:
        """Write the results, the page and the plot."""
        self.results.save()
        data, path = self.results.as_dict(), self.results.path
        path.with_suffix(".md").write_text(markdown(data))
        reason = plot(data, path.with_suffix(".png"))
        drawn = f"no plot: {reason}" if reason else f"plot {path.with_suffix('.png').name}"
        print(f"wrote {path}, table {path.with_suffix('.md').name}, {drawn}")
