"""Requests to URLs that clients supply, kept away from everything that is not public."""

from zoetrope.serving.outbound.errors import FetchError, FetchFailed, FetchRefused, NotPublic
from zoetrope.serving.outbound.fetch import Fetched, PostResult
from zoetrope.serving.outbound.guard import Guard
from zoetrope.serving.outbound.policy import Resolver, system_resolver

__all__ = [
    "FetchError",
    "FetchFailed",
    "FetchRefused",
    "Fetched",
    "Guard",
    "NotPublic",
    "PostResult",
    "Resolver",
    "system_resolver",
]
