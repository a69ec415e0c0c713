"""Who calls: API keys, and how often each may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from model.errors import Picklable
from serving.jobs.key_table import ApiKey, KeyLimits, KeyTable

CACHE_SECONDS = 2.0  # for which a key that was looked up, or found to be unknown, is believed
CACHE_ENTRIES = 10_000
NO_LIMITS = KeyLimits()


class Unauthenticated(Exception):
    """No key, or one that is unknown or revoked."""


class TooManyRequests(Picklable):
    """The key's rate is used up."""

    def __init__(self, per_second: float, retry_seconds: float) -> None:
        super().__init__(f"this key may make {per_second:g} requests a second; try again in {retry_seconds:.1f} s")
        self.per_second = per_second
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class Principal:
    """A caller: the tenant whose jobs it sees ("" where no keys are asked for) and what its key allows."""

    owner: str = ""
    key_id: str | None = None
    key_name: str = ""
    limits: KeyLimits = NO_LIMITS
    address: str = ""  # of its machine, where there is no key

    @property
    def name(self) -> str:
        """Under which it is counted: what it may have at a time is its own."""
        return self.key_id or self.owner or self.address


@dataclass
class Bucket:
    """A token bucket (tokens come in at ``rate`` a second, up to ``size``). Times are seconds of a monotonic clock."""

    rate: float
    size: float
    at: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.size

    def take(self, now: float) -> float:
        """Take a token; returns 0, or the seconds until there is one."""
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate


class Doorkeeper:
    """Admits callers. Rates are counted by each gateway for itself. Safe to use from several threads."""

    def __init__(self, keys: KeyTable, *, required: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            required: refuse calls without a key even while there is none.
        """
        self._keys = keys
        self._required = required
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, ApiKey | None]] = {}
        self._unknown: dict[str, tuple[float, ApiKey | None]] = {}  # apart: anybody can make up any number of them
        self._any: tuple[float, bool] = (-CACHE_SECONDS, False)
        self._buckets: dict[str, Bucket] = {}

    def remembers(self, secret: str | None) -> bool:
        """Whether `admit` will answer without asking the database."""
        now = self._clock()
        known = None if secret is None else self._remembered(secret, now)
        if known is not None and known[1] is not None:
            return True
        return (secret is None or known is not None) and (self._required or self._any_is_fresh(now))

    def knew(self, secret: str | None) -> str | None:
        """The id of a key that was good when it was looked up last, however long ago."""
        with self._lock:
            known = None if secret is None else self._known.get(secret)
        return None if known is None or known[1] is None else known[1].id

    def identify(self, secret: str | None) -> Principal:
        """Whose key it is; does not count as a request.

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

    def admit(self, secret: str | None) -> Principal:
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
                    bucket = self._buckets[who.key_id] = Bucket(rate, max(1.0, who.limits.burst), now)
                wait = bucket.take(now)
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
        now = self._clock()
        if (known := self._remembered(secret, now)) is not None:
            return known[1]
        key = self._keys.find(secret)
        with self._lock:
            kept, other = (self._unknown, self._known) if key is None else (self._known, self._unknown)
            other.pop(secret, None)
            if len(kept) >= CACHE_ENTRIES:
                kept.clear()
            kept[secret] = (now, key)
        return key

    def _remembered(self, secret: str, now: float) -> tuple[float, ApiKey | None] | None:
        """What was found lately, and when."""
        with self._lock:
            known = self._known.get(secret) or self._unknown.get(secret)
        return known if known is not None and now - known[0] < CACHE_SECONDS else None
