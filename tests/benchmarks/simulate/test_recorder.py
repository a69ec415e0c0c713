"""Traces from a job database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.simulate.harness import real_costs
from tests.serving.jobs.harness import new_job
from zoetrope.benchmarks.simulate.recorder import engine_costs, recorded_jobs, trace_of
from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob
from zoetrope.cluster.planning.step_costs import Load
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import parse_request
from zoetrope.serving.jobs.job import EngineRow, QueueLimits
from zoetrope.serving.jobs.open import open_stores

REQUEST = {"task": {"kind": "text_to_video", "prompt": "secret"}, "size": "40x24", "frames": 9}


def filled(path: Path) -> str:
    """A database with two jobs, ten seconds apart, and an engine."""
    now = [1_000.0]
    with closing(open_stores(f"sqlite:///{path}", clock=lambda: now[0])) as stores:
        for number, (steps, guidance) in enumerate([(12, 3.0), (4, 1.0)]):
            spec = resolve(parse_request({**REQUEST, "steps": steps, "guidance": guidance}), find_model("nano"), 1)
            changes = {"spec": spec.to_dict(), "steps": steps, "owner": f"tenant {number}", "priority": number}
            deadline = now[0] + 60.0 if number else None
            stores.jobs.create(new_job(f"job-{number}", **changes, deadline_at=deadline), QueueLimits(100))
            now[0] += 10.0
        row = EngineRow(id="e", model="nano", gang_epoch=1, ranks=2, seen_at=now[0], costs=real_costs(2).to_dict())
        stores.jobs.put_engine(row)
    return str(path)


def test_a_recorded_trace_has_what_was_asked_for_and_no_prompt(tmp_path: Path) -> None:
    trace = trace_of(recorded_jobs(filled(tmp_path / "jobs.db")))
    shape: dict[str, Any] = {"width": 40, "height": 24, "frames": 9}
    assert trace == [
        TraceJob(arrival=0.0, tenant="tenant 0", steps=12, branches=2, **shape),
        TraceJob(arrival=10.0, tenant="tenant 1", steps=4, branches=1, priority=1, deadline=70.0, **shape),
    ]
    assert "secret" not in str(trace)


def test_the_costs_are_those_that_the_engine_has_shown(tmp_path: Path) -> None:
    found, loads = engine_costs(filled(tmp_path / "jobs.db")), [Load(5_000, 2), Load(900, 1)]
    assert found.ranks == 2
    assert found.seconds(loads) == pytest.approx(real_costs(2).seconds(loads), rel=1e-4)


def test_what_is_no_database_with_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="there is no such file"):
        recorded_jobs(str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()
    open_stores(f"sqlite:///{tmp_path / 'empty.db'}").close()
    with pytest.raises(TraceError, match="it has no job"):
        recorded_jobs(str(tmp_path / "empty.db"))
    with pytest.raises(TraceError, match="no engine of this service has taken a step"):
        engine_costs(str(tmp_path / "empty.db"))
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to be read as one" * 20)
    with pytest.raises(TraceError, match="record: "):
        recorded_jobs(str(tmp_path / "text.db"))
