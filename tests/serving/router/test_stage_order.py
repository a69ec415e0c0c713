"""Jobs wait for a stage in the order in which they would wait for an engine, each tenant's share counted."""

from __future__ import annotations

from tests.serving.router.test_next_claims import job
from zoetrope.serving.router.backlog import Backlog
from zoetrope.serving.router.policies.fair import Fair
from zoetrope.serving.router.policies.fifo import Fifo
from zoetrope.serving.router.policies.policy import Policy
from zoetrope.serving.router.queued_jobs import work_of


def places(policy: Policy) -> tuple[float, float]:
    """Where the last of a flood is, and a single job that another tenant made much later, which costs as much."""
    backlog = Backlog(policy)
    flood = [work_of(job(f"f{number}", "many")) for number in range(8)]
    for number, work in enumerate(flood):
        list(backlog.in_order("nano", 100.0 + number))
        backlog.begin(work)
    single = work_of(job("single", "one", 108.0))
    list(backlog.in_order("nano", 108.0))
    backlog.begin(single)
    for _ in range(4):
        backlog.charge("many", 1.0)
    return backlog.place(flood[-1]), backlog.place(single)


def test_a_flood_keeps_no_other_tenant_from_a_stage() -> None:
    flooding, single = places(Fair(gpus=1))
    assert single < flooding, "though it was made 108 s later"


def test_without_shares_the_older_goes_first() -> None:
    flooding, single = places(Fifo())
    assert flooding < single
