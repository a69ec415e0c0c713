"""Request headers of the Replicate face."""

from __future__ import annotations

import re

from model.tasks import short
from serving.gateway.errors import invalid_argument

MAX_WAIT_SECONDS = 60
MIN_CANCEL_AFTER, MAX_CANCEL_AFTER = 5, 7 * 86_400  # seconds
WAIT = re.compile(r"wait(?:=(\d{1,9}))?")
DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?|(\d{1,9})")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def wait_seconds(header: str | None) -> int | None:
    """Of a ``Prefer: wait[=N]``; None where there is none.

    Raises:
        ApiError: N is not within 1 to 60.
    """
    for preference in (header or "").split(","):
        match = WAIT.fullmatch(preference.strip().lower())
        if match is not None:
            seconds = MAX_WAIT_SECONDS if match[1] is None else int(match[1])
            if not 1 <= seconds <= MAX_WAIT_SECONDS:
                raise invalid_argument("Prefer", f"wait={seconds} is not within 1 to {MAX_WAIT_SECONDS} s")
            return seconds
    return None


def cancel_after_seconds(header: str | None) -> int | None:
    """Of a ``Cancel-After: 1h30m10s``, or one of seconds alone.

    Raises:
        ApiError: it is malformed, or too short or long.
    """
    if header is None:
        return None
    match = DURATION.fullmatch(header.strip().lower())
    if match is None or not any(match.groups()):
        raise invalid_argument("Cancel-After", f"{short(header)} is no duration such as 90s, 5m or 1h30m")
    hours, minutes, rest, alone = (int(part or 0) for part in match.groups())
    seconds = hours * 3_600 + minutes * 60 + rest + alone
    if not MIN_CANCEL_AFTER <= seconds <= MAX_CANCEL_AFTER:
        limits = f"{MIN_CANCEL_AFTER} s to {MAX_CANCEL_AFTER // 86_400} days"
        raise invalid_argument("Cancel-After", f"{seconds} s is not within {limits}")
    return seconds


def trace_parent(header: str | None) -> str | None:
    """Of a well-formed ``traceparent`` (W3C Trace Context); others are not passed on."""
    return header if header is not None and TRACEPARENT.fullmatch(header) else None
