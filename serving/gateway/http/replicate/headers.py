"""Request headers of the Replicate API."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header

from zoetrope.model.request.schema_errors import short
from zoetrope.serving.gateway.errors.api_error import invalid_argument

MAX_WAIT_SECONDS = 60
MIN_CANCEL_AFTER, MAX_CANCEL_AFTER = 5, 7 * 86_400  # seconds
WAIT = re.compile(r"wait(?:=(\d{1,9}))?")
DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?|(\d{1,9})")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


PREFER = f"wait or wait=N: answer once the video is there, or after N seconds, at most {MAX_WAIT_SECONDS}"
IDEMPOTENCY_KEY = "a create that is repeated with the same key finds the first prediction"
CANCEL_AFTER = "such as 90s or 1h30m: end the prediction when it takes longer"


@dataclass(frozen=True)
class CreateHeaders:
    """What the headers of a create ask for; times in seconds."""

    wait: int | None
    cancel_after: int | None
    idempotency_key: str
    traceparent: str | None


async def create_headers(
    prefer: Annotated[str | None, Header(alias="Prefer", description=PREFER)] = None,
    cancel_after: Annotated[str | None, Header(alias="Cancel-After", description=CANCEL_AFTER)] = None,
    idempotency_key: Annotated[str, Header(alias="Idempotency-Key", description=IDEMPOTENCY_KEY)] = "",
    traceparent: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> CreateHeaders:
    """Read the headers of a create.

    Raises:
        ApiError: one is malformed, or out of its range.
    """
    return CreateHeaders(
        wait_seconds(prefer), cancel_after_seconds(cancel_after), idempotency_key, trace_parent(traceparent)
    )


def wait_seconds(header: str | None) -> int | None:
    """Return N of ``Prefer: wait[=N]``; None without that preference.

    Raises:
        ApiError: N is not from 1 to 60.
    """
    for preference in (header or "").split(","):
        match = WAIT.fullmatch(preference.strip().lower())
        if match is not None:
            seconds = MAX_WAIT_SECONDS if match[1] is None else int(match[1])
            if not 1 <= seconds <= MAX_WAIT_SECONDS:
                raise invalid_argument("Prefer", f"wait={seconds} must be from 1 to {MAX_WAIT_SECONDS} s")
            return seconds
    return None


def cancel_after_seconds(header: str | None) -> int | None:
    """Return the seconds of ``Cancel-After: 1h30m10s``, which may be seconds alone.

    Raises:
        ApiError: it is malformed, or too short or long.
    """
    if header is None:
        return None
    match = DURATION.fullmatch(header.strip().lower())
    if match is None or not any(match.groups()):
        raise invalid_argument("Cancel-After", f"{short(header)} is not a duration such as 90s, 5m or 1h30m")
    hours, minutes, rest, alone = (int(part or 0) for part in match.groups())
    seconds = hours * 3_600 + minutes * 60 + rest + alone
    if not MIN_CANCEL_AFTER <= seconds <= MAX_CANCEL_AFTER:
        limits = f"{MIN_CANCEL_AFTER} s to {MAX_CANCEL_AFTER // 86_400} days"
        raise invalid_argument("Cancel-After", f"{seconds} s must be from {limits}")
    return seconds


def trace_parent(header: str | None) -> str | None:
    """Return a well-formed ``traceparent`` (W3C Trace Context); others are not passed on."""
    return header if header is not None and TRACEPARENT.fullmatch(header) else None
