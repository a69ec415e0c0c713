"""The form that every error takes before an API renders it: a google.rpc code, a reason, one line, fields at fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zoetrope.model.request.tasks import Violation
from zoetrope.model.runtime.errors import Picklable

MAX_VIOLATIONS = 10  # listed in one error
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
    """An error as the gateway answers it, whatever the API."""

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
        named: bool = False,
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
            unlisted: number of fields at fault that ``violations`` leaves out.
            named: the fields are named as the client wrote them.
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
        self.named = named

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.code]


def field_error(code: str, reason: str, field: str, description: str) -> ApiError:
    """Return an error with one field at fault."""
    return ApiError(code, reason, f"{field}: {description}", violations=(Violation(field, description),))


def invalid_argument(field: str, description: str) -> ApiError:
    """Return the refusal of a request with one field at fault."""
    return field_error("INVALID_ARGUMENT", "INVALID_REQUEST", field, description)


def invalid_arguments(violations: Sequence[Violation], *, named: bool = False) -> ApiError:
    """Return the refusal of a request with several fields at fault, of which the first ten are listed. ``named``: see
    `ApiError`."""
    listed, unlisted = tuple(violations[:MAX_VIOLATIONS]), max(0, len(violations) - MAX_VIOLATIONS)
    message = _join(listed, unlisted)
    return ApiError("INVALID_ARGUMENT", "INVALID_REQUEST", message, violations=listed, unlisted=unlisted, named=named)


def stopping() -> ApiError:
    """Return the refusal of a gateway that is stopping; the next one takes the call."""
    return ApiError("UNAVAILABLE", "STOPPING", "the gateway is stopping; call again", retry_seconds=0.1)


def with_fields(error: ApiError, name: Callable[[str], str]) -> ApiError:
    """Return the same error with the fields at fault named as the API calls them."""
    if error.named or not error.violations:
        return error
    violations = tuple(Violation(name(violation.field), violation.description) for violation in error.violations)
    return ApiError(
        error.code,
        error.reason,
        _join(violations, error.unlisted),
        violations=violations,
        unlisted=error.unlisted,
        metadata=error.metadata,
        retry_seconds=error.retry_seconds,
        quota=error.quota,
    )


def whole_seconds(seconds: float) -> int:
    """Round up, for headers that take no fractions."""
    return max(1, math.ceil(seconds))


def _join(violations: Sequence[Violation], unlisted: int) -> str:
    more = [f"and {unlisted} more"] if unlisted else []
    return "; ".join([*(f"{v.field}: {v.description}" for v in violations), *more])
