"""Read gRPC requests of authenticated callers: a bounded number at a time, each for a bounded time. They are
parsed only once they are known to hold few enough fields.

gRPC buffers a message until it is complete, but at most 64 KB of one that nobody has asked for. Bounding the messages
that are asked for at a time therefore bounds the memory of unfinished ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf.message import DecodeError, Message

from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.grpc.wire_format import MAX_FIELDS, MAX_OWN_FIELDS, has_many_fields
from zoetrope.serving.gateway.limits.pace import Pace
from zoetrope.serving.gateway.limits.unfinished import CallerLimits

SMALL_BYTES = 64 << 10  # of a request without media
SMALL_SECONDS = 5.0  # for a message without media
BULK_SECONDS = 60.0  # for one with media, of 8 MiB at the most
PIECE_SECONDS = 30.0  # for each piece of an upload
OPEN_SECONDS = 30.0  # for each message to services that need no key
OPEN_BYTES = 4 << 10
VIDEOS = "/zoetrope.video.v1.VideoService/"
BULK = (f"{VIDEOS}CreateVideo", f"{VIDEOS}BatchCreateVideos", f"{VIDEOS}ValidateVideo")


@dataclass(frozen=True)
class MethodKind:
    """A method's requests: its path, what parses one, and their descriptor."""

    path: str
    parse: Any
    message: Any

    @property
    def bulk(self) -> bool:
        return self.path in BULK


class RequestReader:
    """Read the requests of one gateway. The number of unfinished messages is bounded, for each key (for each address if
    the service asks for no keys) and in total."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._small = CallerLimits(own=2, most=16, common=12)
        self._bulk = CallerLimits(own=1, most=6, common=6)
        self._uploads = CallerLimits(own=1, most=8, common=8)

    @asynccontextmanager
    async def request(self, context: Any, caller: str, kind: MethodKind) -> AsyncIterator[Any]:
        """Yield the one message of a call. The caller's slot stays taken while a large message is processed.

        Raises:
            ApiError: the message is late, malformed or too large.
            LimitReached: the caller has too many unfinished messages.
        """
        turns, seconds = (self._bulk, BULK_SECONDS) if kind.bulk else (self._small, SMALL_SECONDS)
        async with turns.turn(caller) as turn:
            data = await _read(context, seconds)
            if data is None:
                raise ApiError("INVALID_ARGUMENT", "NO_MESSAGE", "the call ended without a message")
            if len(data) > SMALL_BYTES:
                turn.rest = self._pace.rest(len(data))
                if not kind.bulk:
                    raise _too_large(len(data), SMALL_BYTES)
                message = await asyncio.to_thread(_parse, data, kind)
                del data
                yield _checked(message)
                return
            message = _parse(data, kind)
        yield _checked(message)

    @asynccontextmanager
    async def upload(self, context: Any, caller: str, kind: MethodKind) -> AsyncIterator[AsyncIterator[Any]]:
        """Yield an iterator over the messages of a client stream.

        Raises:
            ApiError: see `request`; the iterator raises it too.
            LimitReached: the caller has too many uploads.
        """

        async def each() -> AsyncIterator[Any]:
            while (data := await _read(context, PIECE_SECONDS)) is not None:
                yield _checked(_parse(data, kind))

        async with self._uploads.turn(caller):
            yield each()


def is_quick(request: Any) -> bool:
    """Return whether answering takes only the database: no media are fetched and no job is waited for."""
    if isinstance(request, video_pb2.CreateVideoRequest):
        return request.WhichOneof("task") == "text_to_video" and not request.HasField("audio")
    slow = (video_pb2.BatchCreateVideosRequest, video_pb2.ExtendVideoRequest, operations_pb2.WaitOperationRequest)
    return isinstance(request, Message) and not isinstance(request, slow)


async def read_open(context: Any, kind: MethodKind) -> Any:
    """Return the next message of a call to a service that needs no key; None after the last one.

    Raises:
        ApiError: see `RequestReader.request`.
    """
    data = await _read(context, OPEN_SECONDS)
    if data is not None and len(data) > OPEN_BYTES:
        raise _too_large(len(data), OPEN_BYTES)
    return None if data is None else _checked(_parse(data, kind))


async def _read(context: Any, seconds: float) -> bytes | None:
    try:
        async with asyncio.timeout(seconds):
            data = await context.read()
    except TimeoutError:
        raise ApiError(
            "DEADLINE_EXCEEDED", "REQUEST_TOO_SLOW", f"the request's message did not arrive within {seconds:g} s"
        ) from None
    return None if data is grpc.aio.EOF else data


def _parse(data: bytes, kind: MethodKind) -> Any:
    """Return the message, or the error as a value: a raised exception would keep the bytes alive."""
    if has_many_fields(data, kind.message):
        return ApiError(
            "INVALID_ARGUMENT",
            "TOO_MANY_FIELDS",
            f"the request holds more than {MAX_FIELDS} fields, or more than {MAX_OWN_FIELDS} in one of its parts",
        )
    try:
        return kind.parse(data)
    except DecodeError:
        return ApiError("INVALID_ARGUMENT", "MALFORMED_MESSAGE", "the request is not a well-formed message")


def _checked(message: Any) -> Any:
    if isinstance(message, ApiError):
        raise message
    return message


def _too_large(size: int, limit: int) -> ApiError:
    return ApiError(
        "INVALID_ARGUMENT",
        "MESSAGE_TOO_LARGE",
        f"the request has {size} bytes, at most {limit} are allowed for this method",
    )
