"""Reads gRPC requests for callers that were admitted: so many at a time and for so long, and parsed only once it is
known that little enough is in them.

gRPC keeps what it has received of a message until all of it is there, and takes no more than 64 KB of one that nobody
has asked for. So what unfinished messages may take is what may be asked for at a time.
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

from serving.api.zoetrope.video.v1 import video_pb2
from serving.gateway.errors import ApiError
from serving.gateway.turns import Turns
from serving.gateway.wire import MAX_FIELDS, MAX_OWN_FIELDS, has_many_fields

SMALL_BYTES = 64 << 10  # of a request without media
TURN_SECONDS = 30.0  # that a call waits for its turn
SMALL_SECONDS = 5.0  # for a message without media
BULK_SECONDS = 60.0  # for one with media, of 8 MiB at the most
PIECE_SECONDS = 30.0  # for each piece of an upload
OPEN_SECONDS = 30.0  # for each message to services that need no key
OPEN_BYTES = 4 << 10
VIDEOS = "/zoetrope.video.v1.VideoService/"
BULK = (f"{VIDEOS}CreateVideo", f"{VIDEOS}BatchCreateVideos")


@dataclass(frozen=True)
class Kind:
    """A method's requests: its path, what parses one, and their descriptor."""

    path: str
    parse: Any
    message: Any

    @property
    def bulk(self) -> bool:
        return self.path in BULK


class Reading:
    """One per gateway. What callers of one key, or without keys those at one address, may have unfinished at a time is
    bounded, and what all may have."""

    def __init__(self) -> None:
        self._small = Turns(own=2, most=16, common=12)
        self._bulk = Turns(own=1, most=6, common=6)
        self._uploads = Turns(own=1, most=8, common=8)

    @asynccontextmanager
    async def request(self, context: Any, caller: str, kind: Kind) -> AsyncIterator[Any]:
        """The one message of a call, whose turn lasts as long as a large message is worked on.

        Raises:
            ApiError: it does not come in time, or is none, or too large.
            NoTurn.
        """
        turns, seconds = (self._bulk, BULK_SECONDS) if kind.bulk else (self._small, SMALL_SECONDS)
        async with turns.turn(caller, TURN_SECONDS):
            data = await _read(context, seconds)
            if data is None:
                raise ApiError("INVALID_ARGUMENT", "NO_MESSAGE", "the call ended without a message")
            if len(data) > SMALL_BYTES:
                if not kind.bulk:
                    raise _too_large(len(data), SMALL_BYTES)
                message = await asyncio.to_thread(_parse, data, kind)
                del data
                yield _checked(message)
                return
            message = _parse(data, kind)
        yield _checked(message)

    @asynccontextmanager
    async def upload(self, context: Any, caller: str, kind: Kind) -> AsyncIterator[AsyncIterator[Any]]:
        """The messages of a call that sends many.

        Raises:
            ApiError: see `request`; also when it comes to a later message.
            NoTurn.
        """

        async def each() -> AsyncIterator[Any]:
            while (data := await _read(context, PIECE_SECONDS)) is not None:
                yield _checked(_parse(data, kind))

        async with self._uploads.turn(caller, TURN_SECONDS):
            yield each()


def is_quick(request: Any) -> bool:
    """Whether an answer takes no longer than the database does: no fetching of media, no waiting for the job."""
    if isinstance(request, video_pb2.CreateVideoRequest):
        return request.WhichOneof("task") == "text_to_video" and not request.HasField("audio")
    slow = (video_pb2.BatchCreateVideosRequest, video_pb2.ExtendVideoRequest, operations_pb2.WaitOperationRequest)
    return isinstance(request, Message) and not isinstance(request, slow)


async def read_open(context: Any, kind: Kind) -> Any:
    """The next message of a call to a service that needs no key; None behind the last one.

    Raises:
        ApiError: see `Reading.request`.
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


def _parse(data: bytes, kind: Kind) -> Any:
    """The message, or what is wrong with it: an exception that is raised would hold the bytes while it lives."""
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
