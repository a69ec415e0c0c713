"""Errors as gRPC tells them: the google.rpc.Status with its details."""

from __future__ import annotations

from typing import Any, NoReturn

from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.errors.api_error import ApiError

DOMAIN = "zoetrope"
# All of it travels in trailers, of which clients take 8 KiB. The message is there twice, once in percent-encoding.
MESSAGE_BYTES = 800
VIOLATION_BYTES = 2_400


def to_status(error: ApiError) -> status_pb2.Status:
    """The google.rpc.Status with its details; of very many or very long violations, the first ones."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=_cut(error.message, MESSAGE_BYTES))
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if error.violations:
        fields, left = [], VIOLATION_BYTES
        for v in error.violations:
            field, description = _cut(v.field, 200), _cut(v.description, MESSAGE_BYTES)
            left -= len(field.encode()) + len(description.encode())
            if left < 0:
                break
            fields.append(error_details_pb2.BadRequest.FieldViolation(field=field, description=description))
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if error.quota is not None:
        violation = error_details_pb2.QuotaFailure.Violation(subject=error.quota[0], description=error.quota[1])
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if error.retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(max(1, round(error.retry_seconds * 1_000)))
        details.append(retry)
    for detail in details:
        status.details.add().Pack(detail)
    return status


async def abort(context: Any, error: Exception) -> NoReturn:
    """End a call with what `as_api_error` makes of the exception."""
    await context.abort_with_status(rpc_status.to_status(to_status(as_api_error(error))))
    raise AssertionError("abort raises")


def _cut(text: str, limit: int) -> str:
    """At most so many bytes of it."""
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."
