"""Puts tables that are made from results and from the code into the documents."""

from __future__ import annotations

from pathlib import Path


def put_table(page: Path, head: str, table: str) -> None:
    """Put a table in the place of the one in a page whose first line is ``head``."""
    before, found, rest = page.read_text().partition(head)
    assert found, f"{page.name} has no table that begins with {head}"
    page.write_text(before + table + "\n\n" + rest.partition("\n\n")[2])
