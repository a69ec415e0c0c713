"""Which queued jobs a router claims next."""

from __future__ import annotations

from tests.serving.router.costs import costs_of_nano
from zoetrope.serving.jobs.job import Job, State
from zoetrope.serving.router.next_claims import HELD_BACK, next_claims
from zoetrope.serving.router.queued_jobs import work_of
from zoetrope.serving.router.state import RouterState

ROOM, NOW = 2, 100.0


def job(job_id: str, tenant: str, created_at: float = 0.0) -> Job:
    return Job(
        id=job_id,
        owner=tenant,
        model="nano",
        spec={},
        steps=4,
        price=1.0,
        state=State.QUEUED,
        created_at=created_at,
    )


def claims(claimed: list[Job], queued: list[Job]) -> list[str]:
    """What is claimed next by a router whose claimed jobs are made ready or in an engine's step."""
    state = RouterState(1_000, 10.0, costs_of_nano)
    for one in claimed:
        state.backlog.reserve(work_of(one))
    for one in queued:
        state.backlog.add(work_of(one), ready=False)
    return next_claims(state, {one.id for one in queued}, ["nano"], claimed, ROOM, NOW)


def test_jobs_are_claimed_while_there_is_room() -> None:
    queued = [job(f"q{number}", "many", number) for number in range(4)]
    assert claims([], queued) == ["q0", "q1"]
    assert claims([job("a", "many")], queued) == ["q0"]
    assert claims([job("a", "many"), job("b", "many")], queued) == []


def test_a_tenant_that_has_none_waits_for_nobody_elses_to_end() -> None:
    full = [job("a", "many"), job("b", "many")]
    flood = [job(f"q{number}", "many", 50.0) for number in range(20)]
    assert claims(full, [*flood, job("single", "one", 51.0)]) == ["single"]
    assert claims([*full, job("first", "one")], [*flood, job("second", "one", 51.0)]) == []
    many_tenants = [job(f"t{number}", f"tenant-{number}") for number in range(HELD_BACK * ROOM)]
    assert claims(many_tenants, [job("single", "one", 51.0)]) == [], "so many are claimed at most"
