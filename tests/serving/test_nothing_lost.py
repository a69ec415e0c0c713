"""Nothing is lost, in the small; `python -m tests.serving.soak` does it with 500 jobs and 20 kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.soak import Soak, run

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_jobs_outlive_everybody(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = "" if database == "sqlite" else str(request.getfixturevalue("postgres"))
    gateways = 1 if database == "sqlite" else 2
    seen = run(Soak(jobs=24, clients=6, kills=3, seed=11, database=url, gateways=gateways), tmp_path)
    assert seen.problems == []
    assert seen.states == {"succeeded": 24}
    assert seen.killed.total() == 3
    assert len(seen.webhooks) == 48
    assert seen.replays > 0
