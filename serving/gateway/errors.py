"""What every face answers to an exception: a google.rpc code, a reason, one line, and the fields at fault."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Sequence

from model.errors import Picklable
from model.tasks import InvalidRequest, Violation, short
from serving.artifacts import ArtifactError, ArtifactMissing
from serving.gateway.core import JobNotFound, NoFile, NotDone
from serving.gateway.doorkeeper import TooManyRequests, Unauthenticated
from serving.gateway.intake import UnknownModel
from serving.gateway.logs import describe
from serving.gateway.media_desk import UnknownMedia, UploadBroken
from serving.gateway.reads import TooManyReads
from serving.gateway.turns import NoTurn
from serving.jobs.errors import (
    MediaInUse,
    NotAllowed,
    OffsetMismatch,
    QueueFull,
    Quota,
    QuotaExceeded,
    RequestConflict,
    StoreError,
)
from serving.jobs.errors import UnknownMedia as MediaGone
from serving.moderation import CheckUnavailable, PromptRefused

MAX_VIOLATIONS = 10  # that are listed
BUSY_RETRY_SECONDS = 5
QUEUE_FULL_RETRY_SECONDS = 10
QUOTA_RETRY_SECONDS = 10
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

# google.rpc codes as HTTP has them (google/rpc/code.proto).
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "DATA_LOSS": 500,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class ApiError(Picklable):
    """An answer other than the one asked for."""

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        *,
        violations: tuple[Violation, ...] = (),
        metadata: dict[str, str] | None = None,
        retry_seconds: float | None = None,
        quota: tuple[str, str] | None = None,
        unlisted: int = 0,
    ) -> None:
        """
        Args:
            code: a google.rpc.Code name.
            reason: of the ErrorInfo, UPPER_SNAKE_CASE, stable for clients to switch on.
            message: one line.
            violations: fields at fault, as the request names them.
            metadata: of the ErrorInfo.
            retry_seconds: when it is worth trying again.
            quota: subject and description of a QuotaFailure.
            unlisted: how many more fields are at fault than ``violations`` has.
        """
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = violations
        self.metadata = metadata or {}
        self.retry_seconds = retry_seconds
        self.quota = quota
        self.unlisted = unlisted

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.code]


def stopping() -> ApiError:
    """A call is refused or ended because its gateway stops; the next one takes it."""
    return ApiError("UNAVAILABLE", "STOPPING", "the gateway is stopping; call again", retry_seconds=0.1)


def invalid_argument(field: str, description: str) -> ApiError:
    """One field at fault."""
    return as_api_error(InvalidRequest(Violation(field, description)))


def join_violations(violations: Sequence[Violation], unlisted: int) -> str:
    """One line."""
    more = [f"and {unlisted} more"] if unlisted else []
    return "; ".join([*(f"{v.field}: {v.description}" for v in violations), *more])


def as_api_error(error: Exception) -> ApiError:
    """The answer to an exception; unexpected ones get INTERNAL with a request id, under which they are logged."""
    match error:
        case ApiError():
            error.__context__ = None  # which, with its frames, may hold all of a large request
            return error.with_traceback(None)
        case InvalidRequest():
            listed = tuple(error.violations[:MAX_VIOLATIONS])
            return ApiError(
                "INVALID_ARGUMENT",
                "INVALID_REQUEST",
                join_violations(listed, len(error.violations) - len(listed)),
                violations=listed,
                unlisted=len(error.violations) - len(listed),
            )
        case UnknownModel():
            return ApiError("NOT_FOUND", "UNKNOWN_MODEL", str(error), violations=(error.violation,))
        case UnknownMedia():
            return ApiError("NOT_FOUND", "UNKNOWN_MEDIA", str(error), violations=(error.violation,))
        case MediaGone():
            violation = Violation("task", "a file that it names was deleted in between")
            return ApiError("NOT_FOUND", "UNKNOWN_MEDIA", f"task: {violation.description}", violations=(violation,))
        case JobNotFound():
            violation = Violation("name", f"{short(error.name)} is not a known job")
            return ApiError("NOT_FOUND", "UNKNOWN_JOB", f"name: {violation.description}", violations=(violation,))
        case NotDone():
            return ApiError("FAILED_PRECONDITION", "NOT_DONE", str(error))
        case NoFile():
            return ApiError("FAILED_PRECONDITION", error.reason, str(error), metadata={"state": error.state.upper()})
        case ArtifactMissing():
            return ApiError("NOT_FOUND", "FILE_GONE", "name: the file was deleted")
        case MediaInUse():
            return ApiError("FAILED_PRECONDITION", "MEDIA_IN_USE", str(error))
        case NotAllowed():
            violation = Violation(error.field, error.why)
            message = f"{error.field}: {error.why}"
            return ApiError("FAILED_PRECONDITION", "NOT_ALLOWED", message, violations=(violation,))
        case OffsetMismatch():
            metadata = {"expected": str(error.expected)}
            message = f"offset: the next byte is {error.expected}"
            return ApiError("OUT_OF_RANGE", "WRONG_OFFSET", message, metadata=metadata)
        case UploadBroken():
            return ApiError("DATA_LOSS", "WRONG_CHECKSUM", str(error))
        case RequestConflict():
            violation = Violation("request_id", "was used before for another request")
            message = f"{violation.field}: {violation.description}"
            return ApiError("ALREADY_EXISTS", "REQUEST_ID_REUSED", message, violations=(violation,))
        case PromptRefused():
            violation = Violation(error.field, str(error))
            message = f"{violation.field}: {violation.description}"
            return ApiError("INVALID_ARGUMENT", "PROMPT_REFUSED", message, violations=(violation,))
        case _:
            return _refusal(error) or _internal(error)


def _refusal(error: Exception) -> ApiError | None:
    """Refusals that have to do with the service or the caller, not with the request."""
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
        case NoTurn():
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
                retry_seconds=QUEUE_FULL_RETRY_SECONDS,
            )
        case QuotaExceeded():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "QUOTA_EXCEEDED",
                f"{error.quota}: {error.used:.15g} are used of the {error.limit:.15g} {QUOTAS[error.quota]}",
                metadata={"quota": error.quota, "limit": f"{error.limit:.15g}"},
                retry_seconds=QUOTA_RETRY_SECONDS,
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


def whole_seconds(seconds: float) -> int:
    """For headers that take no fractions."""
    return max(1, math.ceil(seconds))
