"""Parse JSON objects of strangers: bounded in values, depth and escapes before anything is made of them."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zoetrope.model.request.tasks import invalid_request
from zoetrope.serving.gateway.errors.api_error import ApiError

MAX_JSON_DEPTH = 32  # of objects and lists in each other; what walks them must not run out of stack
MAX_JSON_MARKS = 20_000  # commas, colons, brackets and braces, in texts too: a prompt has 5,000 characters at the most
MAX_JSON_ESCAPES = 1_000_000  # backslashes: some programs write one before each slash of base64
INLINE_BYTES = 64 << 10  # parsed in the event loop; larger bodies in a thread
# One at a time: each holds the interpreter, and so everybody else's calls, for some milliseconds.
_parser = ThreadPoolExecutor(1, thread_name_prefix="json")
M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], value: Any) -> M:
    """Check a value against a model.

    Raises:
        InvalidRequest: with the path of each field at fault.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_request(error, named=True) from None


def count_marks(chunk: bytes) -> int:
    """Count what separates JSON values, which bounds their number before the body is complete, let alone parsed."""
    return sum(map(chunk.count, (b",", b":", b"[", b"{")))


async def json_object(data: bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ApiError: it is not an object, or holds too much.
    """
    value = await _parsed(data)
    if not isinstance(value, dict):
        raise malformed("is not a JSON object")
    return value


async def json_text(text: str) -> Any:
    """Parse an object or a list that stands in a text, such as a form's field.

    Raises:
        ApiError: it is malformed, or holds too much.
    """
    data = text.encode()
    if count_marks(data) > MAX_JSON_MARKS:
        raise malformed(f"holds more than {MAX_JSON_MARKS} commas, colons, brackets and braces")
    return await _parsed(data)


def malformed(what: str) -> ApiError:
    """Return the refusal of a body that ``what`` describes."""
    return ApiError("INVALID_ARGUMENT", "MALFORMED_JSON", f"body: {what}")


async def _parsed(data: bytes | bytearray) -> Any:
    if len(data) <= INLINE_BYTES:
        return _value(data)
    return await asyncio.get_running_loop().run_in_executor(_parser, _value, data)


def _value(data: bytes | bytearray) -> Any:
    if len(data) > MAX_JSON_ESCAPES and data.count(b"\\") > MAX_JSON_ESCAPES:
        raise malformed(f"holds more than {MAX_JSON_ESCAPES} backslashes")
    try:
        value = json.loads(data.decode())  # json itself would let halves of surrogate pairs through
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be encoded
    except (ValueError, RecursionError):
        raise malformed("is not well-formed JSON") from None
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return value
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    raise malformed(f"is nested more than {MAX_JSON_DEPTH} deep")
