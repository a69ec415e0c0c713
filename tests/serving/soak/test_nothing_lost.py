"""Nothing is lost, in the small; `python -m tests.serving.soak.run` does it with 500 jobs and 57 faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.soak.run import Soak, report, run

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_jobs_outlive_everybody(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    postgres = "" if database == "sqlite" else str(request.getfixturevalue("postgres"))
    plan = Soak(
        jobs=40,
        kills=7,
        others=3,
        clients=6,
        seed=11,
        gateways=2 if postgres else 1,
        postgres=postgres,
        s3=bool(postgres),
        pause_seconds=5.0,
        away_seconds=5.0,
    )
    seen = run(plan, tmp_path)
    assert seen.problems == [], report(seen)
    assert len(seen.struck) == 10
    assert len(seen.ledger.orders) == 50, "a probe after every fault"
    assert seen.audit.files == seen.audit.states["succeeded"] > 30
    assert seen.ledger.replays > 0
