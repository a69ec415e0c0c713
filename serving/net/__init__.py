"""Requests to addresses that clients name, kept away from everything that is not public."""

from serving.net.errors import FetchError, FetchFailed, FetchRefused
from serving.net.fetch import Fetched, PostResult
from serving.net.guard import Guard
from serving.net.policy import Resolver, system_resolver

__all__ = [
    "FetchError",
    "FetchFailed",
    "FetchRefused",
    "Fetched",
    "Guard",
    "PostResult",
    "Resolver",
    "system_resolver",
]
