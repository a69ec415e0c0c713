"""Filters and page tokens of lists (AIP-160, AIP-158)."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.errors.api_error import ApiError, invalid_argument
from zoetrope.serving.jobs.job import JobFilter, State

PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
MAX_FILTER_CHARS = 2_000
DIGEST_BYTES = 8
POSITION = struct.Struct(">d")
T = TypeVar("T")
TERM = re.compile(
    r"""\s*(?P<field>labels\.[A-Za-z0-9_./-]+|[A-Za-z_]+)\s*(?P<op>>=|<=|=|>|<|:)\s*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s"]+))\s*"""
)
KNOWN = "done=, state=, model=, task=, labels.KEY=, create_time>= and create_time<, joined by AND"


def parse_filter(text: str) -> JobFilter:
    """Parse ``state=succeeded AND labels.project="a b" AND create_time>=2026-11-01T00:00:00Z``.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    where = JobFilter()
    if not text.strip():
        return where
    if len(text) > MAX_FILTER_CHARS:
        raise invalid_argument("filter", f"has {len(text)} characters, at most {MAX_FILTER_CHARS} are allowed")
    position = 0
    text = text.strip()
    while True:
        match = TERM.match(text, position)
        if match is None:
            raise _bad(text[position:])
        quoted = match["quoted"]
        value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        field = match["field"]
        where = _narrow(where, field if field.startswith("labels.") else field.lower(), match["op"], value)
        position = match.end()
        if position == len(text):
            return where
        joint = re.compile(r"AND\s+", re.IGNORECASE).match(text, position)
        if joint is None:
            raise _bad(text[position:])
        position = joint.end()


def _narrow(where: JobFilter, field: str, op: str, value: str) -> JobFilter:
    if field.startswith("labels.") and op in ("=", ":"):
        return replace(where, labels={**where.labels, field.removeprefix("labels."): value})
    if field == "create_time" and op in (">=", "<"):
        at = _time(value)
        return replace(where, created_after=at) if op == ">=" else replace(where, created_before=at)
    if op != "=":
        raise _bad(f"{field}{op}{value}")
    lower = value.lower()
    choices: dict[str, Callable[[], JobFilter]] = {
        "model": lambda: replace(where, model=value),
        "done": lambda: replace(where, states=_states(lower)),
        "state": lambda: replace(where, states=(State(lower),)),
        "task": lambda: replace(where, kind=lower),
    }
    valid = {"done": ("true", "false"), "state": tuple(State), "task": TASK_KINDS}
    if field not in choices or (field in valid and lower not in valid[field]):
        raise _bad(f"{field}={value}")
    return choices[field]()


def _states(done: str) -> tuple[State, ...]:
    return tuple(state for state in State if state.final == (done == "true"))


def _time(value: str) -> float:
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise invalid_argument("filter", f"{short(value)} is no time such as 2026-11-01T00:00:00Z") from None


def _bad(rest: str) -> ApiError:
    return invalid_argument("filter", f"{short(rest)} is not understood; known are {KNOWN}")


def check_page_size(size: int) -> int:
    """
    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    if size < 0:
        raise invalid_argument("page_size", f"{size} is negative")
    return min(size or PAGE_SIZE, MAX_PAGE_SIZE)


def encode_page_token(position: float, last_id: str, made_for: str) -> str:
    """Return the token of the page after an entry; it is good for the same list and filter only.

    The token holds a digest of these instead of themselves. It has letters, digits, ``-`` and ``_`` only.

    Args:
        position: what the list is ordered by, such as the time of creation; the id decides between equals.
    """
    entry = POSITION.pack(position) + last_id.encode()
    return base64.urlsafe_b64encode(_digest(entry, made_for) + entry).rstrip(b"=").decode()


def decode_page_token(token: str, made_for: str) -> tuple[float, str] | None:
    """Return position and id of the last entry of the page before; None for the first page.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    if not token:
        return None
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, entry = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        (position,) = POSITION.unpack_from(entry)
        if digest == _digest(entry, made_for) and math.isfinite(position):
            return position, entry[POSITION.size :].decode()
    except (ValueError, struct.error):  # of base64 and UTF-8; too short
        pass
    raise invalid_argument("page_token", "is not one that this method gave for this filter")


def _digest(entry: bytes, made_for: str) -> bytes:
    return hashlib.blake2b(entry + made_for.encode(), digest_size=DIGEST_BYTES).digest()


def page_of(items: Sequence[T], page_size: int, page_token: str, made_for: str) -> tuple[Sequence[T], str]:
    """Return a page of a list whose entries keep their places, and the token of the next one; "" for the last page.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    size, before = check_page_size(page_size), decode_page_token(page_token, made_for)
    start = 0 if before is None else int(before[0])
    end = start + size
    return items[start:end], encode_page_token(end, "", made_for) if end < len(items) else ""
