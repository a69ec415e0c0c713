"""The results of all runs on one device, kept in one file and saved after every case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kernels.contenders import Row
from benchmarks.kernels.correctness import Finding
from benchmarks.kernels.targets import Verdict

NOTICE = "cpu smoke test, no GPU figure: names of kernels stand for their plain references"


class Results:
    """``<folder>/<name>.json``. What a new run measures takes the place of the same case of an older one.

    Every case keeps the header of the run that it is of, so that figures of different runs are told apart.
    """

    def __init__(self, folder: Path, name: str, header: dict[str, Any], smoke: bool) -> None:
        self.path = folder / f"{name}.json"
        self.run: str = header["date"]
        data: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        stored = data.get("runs", {})
        if stored and any(run["device"] != header["device"] for run in stored.values()):
            data = {}  # another machine's: not to be mixed
        self.notice = NOTICE if smoke else None
        self.runs: dict[str, dict[str, Any]] = {**data.get("runs", {}), self.run: header}
        self.rows: list[dict[str, Any]] = data.get("rows", [])
        self.verdicts: list[dict[str, Any]] = data.get("verdicts", [])
        self.correctness: list[dict[str, Any]] = data.get("correctness", [])

    def add_rows(self, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
        """The rows of one or more whole cases, with the verdicts on them."""
        new = {(row.section, row.case) for row in rows}
        kept = [row for row in self.rows if (row["section"], row["case"]) not in new]
        self.rows = kept + [{**row.as_dict(), "run": self.run} for row in rows]
        judged = {(verdict.target, verdict.case) for verdict in verdicts}
        old = [verdict for verdict in self.verdicts if (verdict["target"], verdict["case"]) not in judged]
        self.verdicts = old + [{**verdict.as_dict(), "run": self.run} for verdict in verdicts]
        self.save()

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """All cases of one or more kernels; an older run's cases of the same kernels go."""
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        scratch.replace(self.path)
