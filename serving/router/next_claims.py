"""Decides which of the queued jobs a router claims next: a pure function."""

from __future__ import annotations

from collections.abc import Container
from itertools import islice

from zoetrope.serving.router.backlog import Backlog

HELD_BACK = 4  # times as many jobs as a router runs at a time may be claimed, with those that wait for an engine


def next_claims(
    backlog: Backlog, queued: Container[str], model: str, now: float, *, claimed: int, waiting: int, room: int
) -> list[str]:
    """Return the ids of the jobs of a model to claim, the most urgent first.

    Jobs are made ready as far ahead as there is ``room``, in the order of the policy. Those that were made ready and
    then passed by more urgent ones wait, and keep nobody else from being claimed; only so many of them may wait that
    `HELD_BACK` times ``room`` are claimed in all.

    Args:
        queued: ids of the jobs in the backlog that can be claimed.
        claimed: jobs that are claimed; ``waiting``: of these, how many wait for an engine or are left out of its steps.
        room: how many jobs run at a time.
    """
    free = min(room - (claimed - waiting), HELD_BACK * room - claimed)
    if free <= 0:
        return []
    ahead = islice(backlog.all_in_order(model, now), room - (claimed - waiting))
    return [work.id for work in ahead if work.id in queued][:free]
