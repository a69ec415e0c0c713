"""Read result files, and hold them against their schema and their page."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.benchmarks.registry import Benchmark, check_record
from zoetrope.benchmarks.schema.header import ResultHeader, ResultRecord
from zoetrope.benchmarks.schema.quality import NanoRecord, PairedClips
from zoetrope.benchmarks.schema.service import SoakRecord

RESULTS = REPOSITORY / "benchmarks" / "results"
CLIPS = "-clips.json"  # single clips beside a record
# Written by what is no benchmark: by a floor below, without a header, and by tests.
OTHERS: dict[str, type[ResultRecord]] = {
    "nano.json": NanoRecord,
    "nano-4step.json": NanoRecord,
    "soak.json": SoakRecord,
}
PEERS = "peers"  # folder of what other projects' tools wrote


class ResultError(ValueError):
    """A result file, or its page, is not what its benchmark writes."""


@dataclass(frozen=True)
class ResultFile:
    """A result file that its schema accepts."""

    path: Path
    record: Mapping[str, Any]
    benchmark: Benchmark
    header: ResultHeader

    @property
    def page(self) -> str | None:
        """Return the page beside it; None if there is none."""
        path = self.path.with_suffix(".md")
        return path.read_text() if path.is_file() else None

    def check_page(self) -> None:
        """Compare the page beside it with the one that the record makes.

        Raises:
            ResultError: they differ, or only one of the two exists.
        """
        made, page = self.benchmark.render(self.record), self.page
        if made == page:
            return
        if made is None or page is None:
            raise ResultError(
                f"{self.path.name}: {'there is a page that nothing makes' if page else 'the page is missing'}"
            )
        lines = list(difflib.unified_diff(page.splitlines(), made.splitlines(), "file", "record", lineterm="", n=0))
        raise ResultError("\n  ".join([f"{self.path.with_suffix('.md').name} is not the record's page:", *lines[2:12]]))


def read_results(folder: Path = RESULTS) -> list[ResultFile]:
    """Read all results in a folder, by name; those of other projects' tools are left out.

    Raises:
        ResultError: a file is not JSON, or no benchmark's, or a field is missing or wrong; the message names it.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        if PEERS in path.relative_to(folder).parts or "data" in path.relative_to(folder).parts:
            continue
        try:
            record = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise ResultError(f"{path.name} cannot be read as JSON: {error}") from None
        if not isinstance(record, dict):
            raise ResultError(f"{path.name} must hold a JSON object")
        try:
            if path.name.endswith(CLIPS):
                PairedClips.model_validate(record)
            elif path.name in OTHERS:
                OTHERS[path.name].model_validate(record)
            else:
                found.append(ResultFile(path, record, *check_record(record)))
        except ValidationError as error:
            raise ResultError(f"{path.name}: {error}") from None
        except KeyError as error:
            raise ResultError(f"{path.name}: its command is of no benchmark: {error}") from None
    return found
