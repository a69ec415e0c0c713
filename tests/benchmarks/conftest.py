"""Whatever results a test of a benchmark writes are held against their schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks import command
from zoetrope.benchmarks.registry import check_record


@pytest.fixture(autouse=True)
def _results_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    write = command.write_results

    def checked(out: Path | None, record: Mapping[str, Any], page: str | None = None, indent: int = 2) -> None:
        if out is not None:
            benchmark, _ = check_record(json.loads(json.dumps(record)))
            assert page == benchmark.render(json.loads(json.dumps(record))), "the page is made from the record alone"
        write(out, record, page, indent)

    monkeypatch.setattr(command, "write_results", checked)
