"""Identify callers by API keys, and limit how often each calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import LRUCache, TLRUCache

from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.jobs.key_table import ApiKey, KeyLimits, KeyTable

CACHE_SECONDS = 2.0  # for which a lookup of a key is believed, whatever it found
CACHE_ENTRIES = 10_000
NO_LIMITS = KeyLimits()


class Unauthenticated(Exception):
    """The call has no key, or one that is unknown or revoked."""


class TooManyRequests(Picklable):
    """The key's rate is used up."""

    def __init__(self, per_second: float, retry_seconds: float) -> None:
        super().__init__(f"this key may make {per_second:g} requests a second; try again in {retry_seconds:.1f} s")
        self.per_second = per_second
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class Principal:
    """A caller: the tenant whose jobs it sees ("" if no keys are asked for) and what its key allows."""

    owner: str = ""
    key_id: str | None = None
    key_name: str = ""
    limits: KeyLimits = NO_LIMITS
    address: str = ""  # of its machine, if there is no key

    @property
    def name(self) -> str:
        """Whose share of the gateway the caller uses: its key's, its tenant's or its machine's."""
        return self.key_id or self.owner or self.address


@dataclass
class TokenBucket:
    """A token bucket (tokens come in at ``rate`` a second, up to ``size``). Times are seconds of a monotonic clock."""

    rate: float
    size: float
    at: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.size

    def acquire(self, now: float) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate


@dataclass(frozen=True)
class _Lookup:
    """What was found in the database; ``at``: when it was asked."""

    at: float
    key: ApiKey | None


class Authenticator:
    """Admits callers. Rates are counted by each gateway for itself. Safe to use from several threads."""

    def __init__(self, keys: KeyTable, *, required: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Look keys up in a table.

        Args:
            required: refuse calls without a key even while there is none.
        """
        self._keys = keys
        self._required = required
        self._clock = clock
        self._lock = threading.Lock()
        self._good = self._cache()
        self._bad = self._cache()  # apart: anybody can make up any number of them
        self._ids: LRUCache[str, str] = LRUCache(CACHE_ENTRIES)  # of keys that were good when they were last looked up
        self._any: tuple[float, bool] = (-CACHE_SECONDS, False)
        self._buckets: dict[str, TokenBucket] = {}

    def remembers(self, secret: str | None) -> bool:
        """Tell whether `authenticate` will answer without asking the database."""
        known = None if secret is None else self._remembered(secret)
        if known is not None and known.key is not None:
            return True
        return (secret is None or known is not None) and (self._required or self._any_is_fresh(self._clock()))

    def knew(self, secret: str | None) -> str | None:
        """Return the id of a key that was good when it was last looked up, however long ago."""
        with self._lock:
            return None if secret is None else self._ids.get(secret)

    def identify(self, secret: str | None) -> Principal:
        """Tell whose key it is, without counting a request.

        Raises:
            Unauthenticated: one is needed and this is none.
            StoreError: the keys cannot be read.
        """
        if secret is None:
            if self._required or self._any_keys():
                raise Unauthenticated("an API key is needed: send it as 'authorization: Bearer zk_...'")
            return Principal()
        key = self._find(secret)
        if key is None:
            if not (self._required or self._any_keys()):
                return Principal()  # SDKs always send a token, which means nothing while no keys are asked for
            raise Unauthenticated("the API key is not known or was revoked")
        return Principal(key.owner, key.id, key.name, key.limits)

    def authenticate(self, secret: str | None) -> Principal:
        """Identify the caller and count a request.

        Raises:
            Unauthenticated, TooManyRequests, StoreError.
        """
        who = self.identify(secret)
        rate = who.limits.requests_per_second
        if who.key_id is not None and rate is not None:
            with self._lock:
                now = self._clock()
                bucket = self._buckets.get(who.key_id)
                if bucket is None or bucket.rate != rate:
                    bucket = self._buckets[who.key_id] = TokenBucket(rate, max(1.0, who.limits.burst), now)
                wait = bucket.acquire(now)
            if wait > 0:
                raise TooManyRequests(rate, wait)
        return who

    def _any_keys(self) -> bool:
        now = self._clock()
        if not self._any_is_fresh(now):
            self._any = (now, self._keys.ever())
        return self._any[1]

    def _any_is_fresh(self, now: float) -> bool:
        return now - self._any[0] < CACHE_SECONDS

    def _find(self, secret: str) -> ApiKey | None:
        if (known := self._remembered(secret)) is not None:
            return known.key
        found = _Lookup(self._clock(), self._keys.find(secret))  # the clock is read first
        with self._lock:
            if found.key is None:
                self._bad[secret] = found
                self._ids.pop(secret, None)
            else:
                self._good[secret] = found
                self._ids[secret] = found.key.id
        return found.key

    def _remembered(self, secret: str) -> _Lookup | None:
        with self._lock:
            return self._good.get(secret) or self._bad.get(secret)

    def _cache(self) -> TLRUCache[str, _Lookup]:
        # A lookup is believed from its start, not from its end: a slow database must not keep a revoked key alive.
        return TLRUCache(CACHE_ENTRIES, ttu=lambda _, found, now: found.at + CACHE_SECONDS, timer=self._clock)
