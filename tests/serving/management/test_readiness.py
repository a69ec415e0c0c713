"""Readiness is an answer of the database."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.management.readiness import DatabaseCheck


async def test_a_database_that_answers_is_ready_and_a_closed_one_is_not(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite:///{tmp_path / 'jobs.db'}")
    check = DatabaseCheck(stores)
    assert await check.problem() == ""
    stores.close()
    assert "it is closed" in await check.problem()
    check.close()


async def test_a_database_that_hangs_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = open_stores(f"sqlite:///{tmp_path / 'jobs.db'}")
    answer, asked = threading.Event(), 0

    def read(*_: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        answer.wait()
        return []

    monkeypatch.setattr(stores.database, "read", read)
    check = DatabaseCheck(stores)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await check.problem()
    assert asked == 1
    answer.set()
    assert await check.problem() == ""
    check.close()
    stores.close()
