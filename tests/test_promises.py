"""Every test and command that docs/promises.md names is there."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"
CODE = re.findall(r"`([^`]+)`", PAGE.read_text())
TESTS = [words for words in CODE if words.startswith("tests/")]
COMMANDS = [words for words in CODE if words.startswith("python -m ")]


@pytest.mark.parametrize("named", TESTS)
def test_a_test_is_there(named: str) -> None:
    path, _, function = named.partition("::")
    assert (ROOT / path).exists()
    assert not function or re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_there(command: str) -> None:
    assert find_spec(command.split()[2]) is not None


def test_the_page_names_enough() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and line.count("|") == 4]
    assert all("`" in row.rsplit("|", 2)[1] for row in rows if not row.startswith(("| promise", "| ---"))), (
        "a row without a check"
    )
    assert len(rows) > 20 and len(TESTS) > 20 and len(COMMANDS) > 5
