"""The documents show the schedules that the levels of quality have."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoetrope.benchmarks.cached_schedules import main

PAGE = Path(__file__).parents[2] / "docs" / "faster.md"


def test_the_page_has_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    table = capsys.readouterr().out
    assert table in PAGE.read_text(), "paste what python -m zoetrope.benchmarks.cached_schedules prints"
    assert "| wan2.2-t2v-a14b | text to video | 40 | balanced | 26 | 1.54 x |" in table
