"""What the job store refuses, each an outcome by name with the values that a caller needs."""

from __future__ import annotations

from typing import Literal, TypeAlias

from model.errors import Picklable

Quota: TypeAlias = Literal["concurrent_jobs", "queued_seconds", "queued_jobs", "media_bytes", "result_bytes"]


class StoreError(Exception):
    """The database cannot be opened, read or written; the message names it (no password) and fits on one line."""


class StoreRefused(StoreError):
    """The database refuses a value or a row, and would refuse it again: trying once more is of no use."""


class RequestConflict(Picklable):
    """The request id was used before, for a request with another content."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used before for another request")
        self.request_id = request_id


class QueueFull(Picklable):
    """As many jobs are queued as are allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the queue is full: {limit} jobs are waiting, which is the limit")
        self.limit = limit


class QuotaExceeded(Picklable):
    """The API key has as much under way as it may, or its tenant does; `used` does not count what was refused."""

    def __init__(self, quota: Quota, limit: float, used: float) -> None:
        super().__init__(f"quota {quota}: {used:.15g} of {limit:.15g} are used")
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
    """An upload goes on elsewhere than where it stopped; `expected` is the byte to go on from."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the upload goes on at byte {expected}")
        self.expected = expected


class NotAllowed(Picklable):
    """The job is past changing this field."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why
