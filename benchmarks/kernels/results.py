"""The results of all runs on one device, in one file that is saved after every case."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.command import write_json
from zoetrope.benchmarks.kernels.contenders import ContenderRow
from zoetrope.benchmarks.kernels.correctness import Finding
from zoetrope.benchmarks.kernels.targets import TargetResult

NOTICE = "CPU smoke test, no GPU figures: kernel names stand for their plain references"


def merged_rows(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], beside: bool) -> list[dict[str, Any]]:
    """Return old rows, without those whose case (if ``beside``: whose case and name) is in the new ones, and the new
    ones."""
    facts = ("section", "case", "name") if beside else ("section", "case")
    places = {tuple(row[fact] for fact in facts) for row in new}
    return [*(row for row in old if tuple(row[fact] for fact in facts) not in places), *new]


class Results:
    """``<folder>/<name>.json``. New measurements replace those of the same case from older runs.

    Every case refers to the header of its run, so that figures of different runs can be told apart.
    """

    def __init__(self, folder: Path, name: str, header: dict[str, Any], smoke: bool) -> None:
        self.path = folder / f"{name}.json"
        self.run: str = header["date"]
        data: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        stored = data.get("runs", {})
        if stored and any(run["device"] != header["device"] for run in stored.values()):
            data = {}  # from another machine: must not be mixed
        self.notice = NOTICE if smoke else None
        self.runs: dict[str, dict[str, Any]] = {**data.get("runs", {}), self.run: header}
        self.rows: list[dict[str, Any]] = data.get("rows", [])
        self.verdicts: list[dict[str, Any]] = data.get("verdicts", [])
        self.correctness: list[dict[str, Any]] = data.get("correctness", [])

    def add_rows(self, rows: Sequence[ContenderRow], verdicts: Sequence[TargetResult], *, beside: bool = False) -> None:
        """Add all rows of one or more cases, with their verdicts, and save.

        Args:
            beside: keep the rows of those cases that have other names: the run was about some kernels only.
        """
        self.rows = merged_rows(self.rows, [{**row.as_dict(), "run": self.run} for row in rows], beside)
        judged = {(verdict.target, verdict.case) for verdict in verdicts}
        old = [verdict for verdict in self.verdicts if (verdict["target"], verdict["case"]) not in judged]
        self.verdicts = old + [{**verdict.as_dict(), "run": self.run} for verdict in verdicts]
        self.save()

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """Add all cases of one or more kernels, replacing older ones of the same kernels, and save."""
        found = [{**finding.as_dict(), "run": self.run} for finding in findings]
        new = {(entry["op"], entry["backend"], entry["dtype"], entry["head_dim"]) for entry in found}
        kept = [
            entry
            for entry in self.correctness
            if (entry["op"], entry["backend"], entry["dtype"], entry["head_dim"]) not in new
        ]
        self.correctness = kept + found
        self.save()

    def as_dict(self) -> dict[str, Any]:
        used = {entry["run"] for entry in (*self.rows, *self.verdicts, *self.correctness)} | {self.run}
        return {
            "notice": self.notice,
            "runs": {run: header for run, header in self.runs.items() if run in used},
            "correctness": self.correctness,
            "verdicts": self.verdicts,
            "rows": self.rows,
        }

    def save(self) -> None:
        write_json(self.path, self.as_dict())
