"""The call of an authenticated caller, as endpoints get it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.core import Core


@dataclass(frozen=True)
class HttpCall:
    """A request and who makes it."""

    core: Core
    request: Request
    who: Principal

    @property
    def models(self) -> ServedModels:
        """The models that the caller's key may use; all, where it may use none, for `Submitter` to refuse."""
        served = self.core.models
        return served.allowed(self.who.limits.models) or served

    @property
    def base_url(self) -> str:
        """The URL at which the caller reaches the HTTP side, without a slash at the end."""
        public = self.core.settings.public_url.rstrip("/")
        return public or str(self.request.base_url).rstrip("/")


# Not in the request's own state: the two would keep each other alive until the garbage collector comes.
_call: ContextVar[HttpCall] = ContextVar("call")


def set_call(call: HttpCall) -> None:
    """Set the call that the current task answers."""
    _call.set(call)


async def _current_call() -> HttpCall:
    return _call.get()


CurrentCall: TypeAlias = Annotated[HttpCall, Depends(_current_call)]
