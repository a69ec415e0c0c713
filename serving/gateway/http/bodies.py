"""Turns at large bodies of requests, and what JSON may hold before it is parsed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import Headers

from serving.gateway.errors import ApiError
from serving.gateway.turns import Turns

SMALL_BYTES = 64 << 10
TURN_SECONDS = 30.0  # that a request waits for its turn
MAX_JSON_DEPTH = 32  # of objects and lists in each other; what walks them must not run out of stack
MAX_JSON_MARKS = 20_000  # commas, colons, brackets and braces, in texts too: a prompt has 5,000 characters at the most
MAX_JSON_ESCAPES = 1_000_000  # backslashes: some programs write one before each slash of base64
# One at a time: each holds the interpreter, and so all that others ask for, for some milliseconds.
_parser = ThreadPoolExecutor(1, thread_name_prefix="json")


class Bodies:
    """One per gateway. Large bodies that a caller may send at a time, each until its request is answered."""

    def __init__(self) -> None:
        self._json = Turns(own=1, most=2, common=4)
        self._forms = Turns(own=2, most=16, common=64)  # their files go to disk

    @asynccontextmanager
    async def turn(self, headers: Headers, caller: str) -> AsyncIterator[None]:
        """
        Raises:
            NoTurn.
        """
        if "transfer-encoding" not in headers and length_of(headers) <= SMALL_BYTES:
            yield
            return
        form = headers.get("content-type", "").startswith("multipart/")
        async with (self._forms if form else self._json).turn(caller, TURN_SECONDS):
            yield


def length_of(headers: Headers) -> int:
    """That a body is announced with; 0 where it is not."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def count_marks(chunk: bytes) -> int:
    """Of JSON, by which the number of its values is bounded before it is there, let alone parsed."""
    return sum(map(chunk.count, (b",", b":", b"[", b"{")))


async def json_object(data: bytes | bytearray) -> dict[str, Any]:
    """
    Raises:
        ApiError: it is none, or holds too much.
    """
    if len(data) <= SMALL_BYTES:
        return _object(data)
    return await asyncio.get_running_loop().run_in_executor(_parser, _object, data)


def _object(data: bytes | bytearray) -> dict[str, Any]:
    if len(data) > MAX_JSON_ESCAPES and data.count(b"\\") > MAX_JSON_ESCAPES:
        raise malformed(f"holds more than {MAX_JSON_ESCAPES} backslashes")
    try:
        value = json.loads(data.decode())  # json itself would let halves of surrogate pairs through
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        raise malformed("is not well-formed JSON") from None
    if not isinstance(value, dict):
        raise malformed("is not a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        level = [child for child in level if isinstance(child, (dict, list))]
        if not level:
            return value
    raise malformed(f"is nested more than {MAX_JSON_DEPTH} deep")


def malformed(what: str) -> ApiError:
    return ApiError("INVALID_ARGUMENT", "MALFORMED_JSON", f"body: {what}")
