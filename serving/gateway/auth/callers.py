"""Remember who makes the call that is being answered."""

from __future__ import annotations

from contextvars import ContextVar

from zoetrope.serving.gateway.auth.authenticator import Principal

_caller: ContextVar[Principal] = ContextVar("caller")
_nobody = Principal()


def caller() -> Principal:
    """Return who made the call that is being answered; nobody in particular outside of calls."""
    return _caller.get(_nobody)


def set_caller(who: Principal) -> None:
    """Set the caller of the current task, and of what it starts."""
    _caller.set(who)


def bearer(value: str | None) -> str | None:
    """Return the key of an ``authorization`` header: ``Bearer KEY``, ``Token KEY``, ``Key KEY`` or the key alone."""
    if value is None:
        return None
    scheme, _, rest = value.strip().partition(" ")
    key = rest.strip() if scheme.lower() in ("bearer", "token", "key") else value.strip()
    return key or None
