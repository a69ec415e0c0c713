"""What the job store refuses: one class for each reason, with the values that a caller needs."""

from __future__ import annotations

from typing import Literal, TypeAlias

from zoetrope.model.runtime.errors import Picklable

Quota: TypeAlias = Literal["concurrent_jobs", "queued_seconds", "queued_jobs", "media_bytes", "result_bytes"]


class RequestConflict(Picklable):
    """The request id was used before for a request with other content, or of other weights."""

    def __init__(self, request_id: str, what: str = "for another request") -> None:
        super().__init__(f"request id {request_id!r} was used before {what}")
        self.request_id = request_id


class QueueFull(Picklable):
    """The queue holds as many jobs as are allowed."""

    def __init__(self, limit: int, retry_seconds: float | None = None) -> None:
        super().__init__(f"the queue is full: {limit} jobs are waiting, which is the limit")
        self.limit = limit
        self.retry_seconds = retry_seconds


class BacklogFull(Picklable):
    """The unfinished jobs of a model cost as many GPU-seconds as are allowed: all of them, or a tenant's ``own``."""

    def __init__(self, model: str, limit: float, used: float, price: float, retry_seconds: float | None, own: bool):
        whose = "this tenant's" if own else "all"
        super().__init__(f"{whose} jobs of {model}: {used:.15g} of {limit:.15g} GPU-seconds are used")
        self.model = model
        self.limit = limit
        self.used = used
        self.price = price
        self.retry_seconds = retry_seconds
        self.own = own


class QuotaExceeded(Picklable):
    """The API key or its tenant has reached a quota; `used` does not count what was refused."""

    def __init__(self, quota: Quota, limit: float, used: float, retry_seconds: float | None = None) -> None:
        super().__init__(f"quota {quota}: {used:.15g} of {limit:.15g} are used")
        self.retry_seconds = retry_seconds
        self.quota: Quota = quota
        self.limit = limit
        self.used = used


class UnknownMedia(Picklable):
    """The owner has no ready medium with this id."""

    def __init__(self, media_id: str) -> None:
        super().__init__(f"there is no ready medium {media_id!r}")
        self.media_id = media_id


class MediaInUse(Picklable):
    """A job that has not ended needs the medium."""

    def __init__(self, media_id: str) -> None:
        super().__init__(f"medium {media_id!r} is used by a job that has not ended")
        self.media_id = media_id


class OffsetMismatch(Picklable):
    """An upload resumes elsewhere than where it stopped; `expected` is the byte to resume from."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the upload resumes at byte {expected}")
        self.expected = expected


class NotAllowed(Picklable):
    """This field of the job can no longer, or not yet, be changed."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why
