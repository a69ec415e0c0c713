"""Who makes the call that is being answered."""

from __future__ import annotations

from contextvars import ContextVar

from serving.gateway.doorkeeper import Principal

_caller: ContextVar[Principal] = ContextVar("caller")
_nobody = Principal()


def caller() -> Principal:
    """Who made the call that is being answered; nobody in particular outside of calls."""
    return _caller.get(_nobody)


def set_caller(who: Principal) -> None:
    """Of the current task, and of what it starts."""
    _caller.set(who)


def bearer(value: str | None) -> str | None:
    """The key of an ``authorization`` header: ``Bearer KEY``, ``Token KEY`` or the key alone."""
    if value is None:
        return None
    scheme, _, rest = value.strip().partition(" ")
    key = rest.strip() if scheme.lower() in ("bearer", "token") else value.strip()
    return key or None
