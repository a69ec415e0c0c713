"""Counts what becomes of the jobs that clients ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoetrope.cluster.telemetry.catalogue import start_at_zero
from zoetrope.cluster.telemetry.metrics import SUBMISSIONS
from zoetrope.model.request.tasks import InvalidRequest
from zoetrope.serving.gateway.submit.feasible import DeadlineOutOfReach
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.errors import BacklogFull, QueueFull, QuotaExceeded
from zoetrope.serving.outbound.hooks import CheckUnavailable, PromptRefused
from zoetrope.serving.storage.store import ArtifactError

if TYPE_CHECKING:
    from zoetrope.serving.gateway.submit.submission import Submission

ACCEPTED, REFUSED = "accepted", "refused"
OUTCOMES: dict[str, tuple[type[Exception], ...]] = {
    "invalid": (InvalidRequest,),
    "full": (QueueFull, BacklogFull, QuotaExceeded, DeadlineOutOfReach),
    "moderated": (PromptRefused,),
    "unavailable": (StoreError, ArtifactError, CheckUnavailable),
}


@contextmanager
def counted(orders: Sequence[Submission]) -> Iterator[None]:
    """Count submissions by what becomes of them in the block: ACCEPTED, one of OUTCOMES, or REFUSED. The counts of
    an API begin at 0 with its first job."""
    outcome = ACCEPTED
    try:
        yield
    except Exception as error:
        outcome = next((name for name, kinds in OUTCOMES.items() if isinstance(error, kinds)), REFUSED)
        raise
    finally:
        for order in orders:
            api = str(order.options.origin.get("api", "grpc"))
            start_at_zero(SUBMISSIONS, [api], (ACCEPTED, *OUTCOMES, REFUSED))
            SUBMISSIONS.labels(api, outcome).inc()
