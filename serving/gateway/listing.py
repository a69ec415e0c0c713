"""Filters and page tokens of lists (AIP-160, AIP-158)."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from model.tasks import TASK_KINDS, short
from serving.gateway.errors import ApiError, invalid_argument
from serving.jobs.job import JobFilter, State

PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
MAX_FILTER_CHARS = 2_000
TERM = re.compile(
    r"""\s*(?P<field>labels\.[A-Za-z0-9_./-]+|[A-Za-z_]+)\s*(?P<op>>=|<=|=|>|<|:)\s*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s"]+))\s*"""
)
KNOWN = "done=, state=, model=, task=, labels.KEY=, create_time>= and create_time<, joined by AND"


def parse_filter(text: str) -> JobFilter:
    """``state=succeeded AND labels.project="a b" AND create_time>=2026-11-01T00:00:00Z``.

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


def encode_page_token(created_at: float, last_id: str, made_for: str) -> str:
    """The token of the page after an entry; good for the same filter only."""
    return base64.urlsafe_b64encode(json.dumps([created_at, last_id, made_for]).encode()).decode()


def decode_page_token(token: str, made_for: str) -> tuple[float, str] | None:
    """created_at and id of the last entry of the page before; None for the first page.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    if not token:
        return None
    try:
        match json.loads(base64.b64decode(token, altchars=b"-_", validate=True)):
            case [float(created_at), str(last_id), str(known)] if known == made_for and math.isfinite(created_at):
                return created_at, last_id
    except (ValueError, RecursionError):  # of base64, UTF-8 and JSON alike
        pass
    raise invalid_argument("page_token", "is not one that this method gave for this filter")
