"""Decides which of the queued jobs a router claims next: a pure function."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import islice

from zoetrope.serving.jobs.job import Job
from zoetrope.serving.router.state import RouterState

HELD_BACK = 4  # times as many jobs as a router runs at a time may be claimed, with those that wait for an engine


def next_claims(
    state: RouterState, queued: Container[str], models: Iterable[str], claimed: Sequence[Job], room: int, now: float
) -> list[str]:
    """Return the ids of the jobs to claim, of each model the most urgent first.

    Jobs are made ready as far ahead as there is ``room``, in the order of the policy. Those that were made ready and
    then passed by more urgent ones wait for an engine, or are left out of its steps, and keep nobody else from being
    claimed; only so many of them may wait that `HELD_BACK` times ``room`` are claimed in all. Where tenants have
    shares, the most urgent job of all is claimed without room if its tenant has none: it need not wait until one of
    another's ends.

    Args:
        queued: ids of the jobs in the backlog that can be claimed.
        claimed: the jobs that are claimed.
        room: how many jobs of each model run at a time.
    """
    waiting, chosen = state.waiting_jobs(), list[str]()
    for model in models:
        mine = [job for job in claimed if job.model == model]
        tenants = {job.owner for job in mine}
        ahead = max(0, room - sum(job.id not in waiting for job in mine))
        free = HELD_BACK * room - len(mine)
        if free <= 0:
            continue
        looked = max(ahead, int(state.backlog.policy.shares))
        for place, work in enumerate(islice(state.backlog.all_in_order(model, now), looked)):
            if free > 0 and work.id in queued and (place < ahead or work.tenant not in tenants):
                chosen.append(work.id)
                free -= 1
    return chosen
