"""What a request asks for beside the input of its app: query and headers of fal's queue."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Query

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.errors.api_error import invalid_argument
from zoetrope.serving.gateway.http.fal.views import IDEMPOTENCY_KEY, LIFECYCLE, PRIORITY, TIMEOUT, WEBHOOK

MAX_HEADER_CHARS = 4_000
HINT = "X-Fal-Runner-Hint"
NO_PRIORITY = f"{PRIORITY} changes nothing: all requests of this API have the same"
NO_TIMEOUT = f"{TIMEOUT} changes nothing: a request waits until there is room for it"
NO_HINT = f"{HINT} changes nothing: the service chooses where a request runs"
NO_ACL = f"{LIFECYCLE}: initial_acl changes nothing: a video is given to those who have its URL"


@dataclass(frozen=True)
class Wishes:
    """What query and headers of a request ask for. ``warnings``: of what changes nothing here."""

    webhook: str | None
    retention_seconds: float | None
    idempotency_key: str
    traceparent: str | None
    warnings: tuple[str, ...]


async def read_wishes(
    fal_webhook: Annotated[str | None, Query(alias=WEBHOOK, description="told when the request has ended")] = None,
    lifecycle: Annotated[
        str | None, Header(alias=LIFECYCLE, description='{"expiration_duration_seconds": of the video}')
    ] = None,
    priority: Annotated[str | None, Header(alias=PRIORITY, description="normal or low; changes nothing")] = None,
    timeout: Annotated[str | None, Header(alias=TIMEOUT, description="seconds; changes nothing")] = None,
    hint: Annotated[str | None, Header(alias=HINT, description="changes nothing")] = None,
    idempotency_key: Annotated[
        str, Header(alias=IDEMPOTENCY_KEY, description="repeated with the same key, a request finds the first one")
    ] = "",
    traceparent: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Wishes:
    """Read them.

    Raises:
        ApiError: one is malformed.
    """
    warnings = []
    if priority not in (None, "normal", "low"):
        raise invalid_argument(PRIORITY, f"{short(priority)} is not one of normal, low")
    if priority == "low":
        warnings.append(NO_PRIORITY)
    if timeout is not None:
        _check_timeout(timeout)
        warnings.append(NO_TIMEOUT)
    if hint is not None:
        warnings.append(NO_HINT)
    retention, acl = _lifecycle(lifecycle)
    if acl:
        warnings.append(NO_ACL)
    return Wishes(fal_webhook, retention, idempotency_key, (traceparent or "")[:128] or None, tuple(warnings))


def _check_timeout(text: str) -> None:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise invalid_argument(TIMEOUT, f"{short(text)} is not a number of seconds above 0")


def _lifecycle(text: str | None) -> tuple[float | None, bool]:
    """Return how long the video is to be kept, and whether somebody is to be kept from it."""
    if text is None:
        return None, False
    try:
        found: Any = json.loads(text) if len(text) <= MAX_HEADER_CHARS else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise invalid_argument(
            LIFECYCLE, f"{short(text)} is not a JSON object of at most {MAX_HEADER_CHARS} characters"
        )
    seconds = found.get("expiration_duration_seconds")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float))):
        raise invalid_argument(LIFECYCLE, f"expiration_duration_seconds: {short(seconds)} must be a number")
    try:
        return None if seconds is None else float(seconds), found.get("initial_acl") is not None
    except OverflowError:
        raise invalid_argument(LIFECYCLE, f"expiration_duration_seconds: {short(seconds)} is too large") from None
