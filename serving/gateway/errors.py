"""Turns exceptions into rich gRPC statuses: BadRequest, ErrorInfo and RetryInfo, with one line as the message."""

from __future__ import annotations

import inspect
import logging
import secrets
import sqlite3
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from model.tasks import InvalidRequest, Violation
from serving.artifacts import ArtifactError
from serving.gateway.intake import UnknownModel
from serving.jobs.store import QueueFull, RequestConflict, StoreError

DOMAIN = "zoetrope"
QUEUE_FULL_RETRY_SECONDS = 10
SAFE_TO_LOG = (OSError, sqlite3.Error, StoreError, ArtifactError)
log = logging.getLogger("zoetrope.gateway")


class ApiError(Exception):
    """An answer other than the one asked for."""

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        *,
        violations: tuple[Violation, ...] = (),
        metadata: dict[str, str] | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        """
        Args:
            code: a google.rpc.Code name.
            reason: of the ErrorInfo, UPPER_SNAKE_CASE, stable for clients to switch on.
            message: one line.
            violations: fields at fault, as the proto names them.
            metadata: of the ErrorInfo.
            retry_seconds: when it is worth trying again.
        """
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = violations
        self.metadata = metadata or {}
        self.retry_seconds = retry_seconds


def invalid_argument(field: str, description: str) -> ApiError:
    """One field at fault."""
    return as_api_error(InvalidRequest(Violation(field, description)))


def as_api_error(error: Exception) -> ApiError:
    """The answer to an exception; unexpected ones get INTERNAL with a request id, under which they are logged."""
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            violations = tuple(Violation(proto_field(v.field), v.description) for v in error.violations)
            message = "; ".join(f"{v.field}: {v.description}" for v in violations)
            return ApiError("INVALID_ARGUMENT", "INVALID_REQUEST", message, violations=violations)
        case UnknownModel():
            return ApiError("NOT_FOUND", "UNKNOWN_MODEL", str(error), violations=(error.violation,))
        case RequestConflict():
            violation = Violation("request_id", "was used before for another request")
            message = f"{violation.field}: {violation.description}"
            return ApiError("ALREADY_EXISTS", "REQUEST_ID_REUSED", message, violations=(violation,))
        case QueueFull():
            return ApiError(
                "RESOURCE_EXHAUSTED",
                "QUEUE_FULL",
                f"{error.limit} jobs are queued, which is the limit; try again later",
                metadata={"limit": str(error.limit)},
                retry_seconds=QUEUE_FULL_RETRY_SECONDS,
            )
    request_id = secrets.token_hex(8)
    log.error("request %s failed unexpectedly:\n%s", request_id, describe(error))
    return ApiError(
        "INTERNAL",
        "INTERNAL",
        f"internal error; the service's log has it as request {request_id}",
        metadata={"request_id": request_id},
    )


def proto_field(field: str) -> str:
    """CreateVideoRequest's name of a model.tasks.VideoRequest field."""
    return f"text_to_video.{field}" if field in ("prompt", "negative_prompt") else field


def describe(error: BaseException) -> str:
    """A traceback without the messages that could hold a prompt: those of the system and the stores cannot."""
    lines = traceback.format_tb(error.__traceback__)
    shown = f": {error}" if isinstance(error, SAFE_TO_LOG) else ""
    text = "".join(lines) + f"{type(error).__module__}.{type(error).__qualname__}{shown}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{describe(cause)}\nand then:\n{text}" if cause else text


def to_status(error: ApiError) -> status_pb2.Status:
    """The google.rpc.Status with its details."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if error.retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = error.retry_seconds
        details.append(retry)
    for detail in details:
        status.details.add().Pack(detail)
    return status


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Gives every method of every service the answers above."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], call_details: Any) -> Any:
        handler = await continuation(call_details)
        if handler is None:
            return None
        if handler.unary_unary:
            return _guard_parser(handler._replace(unary_unary=_guard_unary(handler.unary_unary)))
        if inspect.isasyncgenfunction(handler.unary_stream):
            return _guard_parser(handler._replace(unary_stream=_guard_stream(handler.unary_stream)))
        return handler  # health's Watch and reflection, which answer for themselves


def _guard_parser(handler: Any) -> Any:
    """What cannot be parsed reaches the guarded method as the exception, for grpc itself would answer UNKNOWN."""

    def parse(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            return error

    return handler._replace(request_deserializer=parse)


def _check_parsed(request: Any) -> None:
    if isinstance(request, DecodeError):
        raise ApiError("INVALID_ARGUMENT", "MALFORMED_MESSAGE", "the request is not a well-formed message")


def _guard_unary(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            _check_parsed(request)
            return await method(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error)

    return guarded


def _guard_stream(method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            _check_parsed(request)
            async for message in method(request, context):
                yield message
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, error)

    return guarded


async def _abort(context: Any, error: Exception) -> NoReturn:
    await context.abort_with_status(rpc_status.to_status(to_status(as_api_error(error))))
    raise AssertionError("abort raises")
