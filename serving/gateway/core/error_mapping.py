"""Map every exception of a call to the error that the gateway answers, whatever the API."""

from __future__ import annotations

import logging
import math
import secrets

from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import InvalidRequest
from zoetrope.serving.config.logs import describe
from zoetrope.serving.gateway.auth.authenticator import TooManyRequests, Unauthenticated
from zoetrope.serving.gateway.core.core import JobNotFound, NoFile, NotDone
from zoetrope.serving.gateway.errors.api_error import ApiError, field_error, invalid_arguments
from zoetrope.serving.gateway.limits.slow_reads import TooManyReads
from zoetrope.serving.gateway.limits.unfinished import LimitReached
from zoetrope.serving.gateway.submit.adapters import UnknownAdapter
from zoetrope.serving.gateway.submit.feasible import DeadlineOutOfReach
from zoetrope.serving.gateway.submit.media import MediaNotFound, UploadBroken
from zoetrope.serving.gateway.submit.submission import UnknownModel
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.errors import (
    BacklogFull,
    MediaInUse,
    NotAllowed,
    OffsetMismatch,
    QueueFull,
    Quota,
    QuotaExceeded,
    RequestConflict,
)
from zoetrope.serving.jobs.errors import UnknownMedia as MediaGone
from zoetrope.serving.outbound.hooks import CheckUnavailable, PromptRefused
from zoetrope.serving.storage.store import ArtifactError, ArtifactMissing

BUSY_RETRY_SECONDS = 5
QUEUE_FULL_RETRY_SECONDS = 10
QUOTA_RETRY_SECONDS = 10
LONGEST_RETRY_SECONDS = 3_600
UNAVAILABLE_RETRY_SECONDS = 5
READS_RETRY_SECONDS = 1
# What a quota means to whoever is above it.
QUOTAS: dict[Quota, str] = {
    "concurrent_jobs": "that this key may have",
    "queued_seconds": "that this key may have",
    "queued_jobs": "that this tenant may have waiting now: half of the places in the queue that others leave free",
    "media_bytes": "that this tenant may keep; delete some files, or wait until they expire",
    "result_bytes": "that this tenant may keep; delete some jobs, or wait until they expire",
}
log = logging.getLogger("zoetrope.gateway")


def as_api_error(error: Exception) -> ApiError:
    """Return the answer to an exception; an unexpected one gets INTERNAL and a request id, under which it is logged."""
    match error:
        case ApiError():
            error.__context__ = None  # which, with its frames, may hold all of a large request
            return error.with_traceback(None)
        case InvalidRequest():
            return invalid_arguments(error.violations, named=error.named)
        case UnknownModel():
            return ApiError("NOT_FOUND", "UNKNOWN_MODEL", str(error), violations=(error.violation,))
        case UnknownAdapter():
            return ApiError("NOT_FOUND", "UNKNOWN_ADAPTER", str(error), violations=(error.violation,))
        case MediaNotFound():
            return ApiError("NOT_FOUND", "UNKNOWN_MEDIA", str(error), violations=(error.violation,))
        case MediaGone():
            return field_error("NOT_FOUND", "UNKNOWN_MEDIA", "task", "a file that it names was deleted in between")
        case JobNotFound():
            return field_error("NOT_FOUND", "UNKNOWN_JOB", "name", f"{short(error.name)} is not a known job")
        case NotDone():
            return ApiError("FAILED_PRECONDITION", "NOT_DONE", str(error))
        case NoFile():
            return ApiError("FAILED_PRECONDITION", error.reason, str(error), metadata={"state": error.state.upper()})
        case ArtifactMissing():
            return ApiError("NOT_FOUND", "FILE_GONE", "name: the file was deleted")
        case MediaInUse():
            return ApiError("FAILED_PRECONDITION", "MEDIA_IN_USE", str(error))
        case NotAllowed():
            return field_error("FAILED_PRECONDITION", "NOT_ALLOWED", error.field, error.why)
        case OffsetMismatch():
            metadata = {"expected": str(error.expected)}
            message = f"offset: the next byte is {error.expected}"
            return ApiError("OUT_OF_RANGE", "WRONG_OFFSET", message, metadata=metadata)
        case UploadBroken():
            return ApiError("DATA_LOSS", "WRONG_CHECKSUM", str(error))
        case RequestConflict():
            description = "was used before for another request"
            return field_error("ALREADY_EXISTS", "REQUEST_ID_REUSED", "request_id", description)
        case PromptRefused():
            return field_error("INVALID_ARGUMENT", "PROMPT_REFUSED", error.field, str(error))
        case _:
            return _refusal(error) or _internal(error)


def _refusal(error: Exception) -> ApiError | None:
    """Return the refusal that has to do with the service or the caller, not with the request; None for others."""
    match error:
        case Unauthenticated():
            return ApiError("UNAUTHENTICATED", "KEY_NEEDED", str(error))
        case TooManyRequests():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "RATE_EXCEEDED",
                str(error),
                retry_seconds=error.retry_seconds,
                quota=("requests_per_second", str(error)),
            )
        case LimitReached():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "TOO_MANY_REQUESTS",
                "too many requests of this caller are not complete yet; try again later",
                retry_seconds=BUSY_RETRY_SECONDS,
            )
        case TooManyReads():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "TOO_MANY_READS",
                str(error),
                metadata={"limit": str(error.limit)},
                retry_seconds=READS_RETRY_SECONDS,
            )
        case QueueFull():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "QUEUE_FULL",
                f"{error.limit} jobs are queued, which is the limit; try again later",
                metadata={"limit": str(error.limit)},
                retry_seconds=_retry(error.retry_seconds, QUEUE_FULL_RETRY_SECONDS),
            )
        case BacklogFull():
            whose = "this tenant's" if error.own else "all callers'"
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "BACKLOG_FULL",
                f"the job costs {error.price:.3g} GPU-seconds; {whose} unfinished jobs of {error.model} have "
                f"{error.used:.6g} of {error.limit:.6g} that they may have; try again later",
                metadata={"limit": f"{error.limit:.6g}", "used": f"{error.used:.6g}", "price": f"{error.price:.6g}"},
                retry_seconds=_retry(error.retry_seconds, QUEUE_FULL_RETRY_SECONDS),
                quota=("queued_gpu_seconds", f"at most {error.limit:.6g}") if error.own else None,
            )
        case DeadlineOutOfReach():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "DEADLINE_OUT_OF_REACH",
                str(error),
                violations=(error.violation,),
                retry_seconds=_retry(error.retry_seconds, QUEUE_FULL_RETRY_SECONDS),
            )
        case QuotaExceeded():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "QUOTA_EXCEEDED",
                f"{error.quota}: {error.used:.15g} are used of the {error.limit:.15g} {QUOTAS[error.quota]}",
                metadata={"quota": error.quota, "limit": f"{error.limit:.15g}"},
                retry_seconds=_retry(error.retry_seconds, QUOTA_RETRY_SECONDS),
                quota=(error.quota, f"at most {error.limit:.15g}"),
            )
        case StoreError():
            return _unavailable(error, "STORE_UNAVAILABLE", "jobs cannot be stored or read")
        case ArtifactError():
            return _unavailable(error, "STORE_UNAVAILABLE", "files cannot be stored or read")
        case OSError() if not isinstance(error, TimeoutError):  # a full disk, above all
            return _unavailable(error, "STORE_UNAVAILABLE", "files cannot be stored or read")
        case CheckUnavailable():
            return _unavailable(error, "CHECK_UNAVAILABLE", "prompts cannot be checked")
    return None


def _retry(seconds: float | None, unknown: float) -> float:
    """Return when to try again: as reckoned from the backlog, or ``unknown`` seconds."""
    return unknown if seconds is None else min(LONGEST_RETRY_SECONDS, max(1.0, math.ceil(seconds)))


def _unavailable(error: Exception, reason: str, what: str) -> ApiError:
    request_id = secrets.token_hex(8)
    log.error("request %s refused:\n%s", request_id, describe(error))
    return ApiError(
        "UNAVAILABLE",
        reason,
        f"{what} at the moment; nothing was changed, try again",
        metadata={"request_id": request_id},
        retry_seconds=UNAVAILABLE_RETRY_SECONDS,
    )


def _internal(error: Exception) -> ApiError:
    request_id = secrets.token_hex(8)
    log.error("request %s failed unexpectedly:\n%s", request_id, describe(error))
    return ApiError(
        "INTERNAL",
        "INTERNAL",
        f"internal error; the service's log has it as request {request_id}",
        metadata={"request_id": request_id},
    )
