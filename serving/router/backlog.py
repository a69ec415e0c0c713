"""Unfinished work in the order of a policy, kept up to date as it changes, so that a decision looks at what is next
and not at all that waits."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush, heapreplace, merge
from typing import TypeAlias

from zoetrope.model.request.tasks import Role
from zoetrope.serving.router.policies.policy import Policy
from zoetrope.serving.router.policies.work import Work

_Place: TypeAlias = tuple[float, str]  # in a tenant's queue: key and id
_Held: TypeAlias = tuple[float, str, Work, Work]  # the same, the work, and the work as it is placed
_Head: TypeAlias = tuple[float, float, str, str]  # place of a tenant, key and id of its first work, tenant

LATE_AT_ONCE = 256  # that a decision notices; each takes about 20 microseconds in a long queue
HYSTERESIS = 0.1  # of its remaining cost, by which work is more urgent while it is in an engine's steps


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an engine can take together, or not at all yet (``ready``)."""

    model: str
    ready: bool
    role: Role
    cohort: int


@dataclass
class _Line:
    """The work of one kind, by tenant, and the first of each tenant."""

    queues: dict[str, list[_Place]] = field(default_factory=dict)
    heads: list[_Head] = field(default_factory=list)
    head_of: dict[str, _Head] = field(default_factory=dict)


@dataclass(slots=True)
class _Waiting:
    work: Work
    ready: bool
    late: bool
    place: _Place

    @property
    def kind(self) -> _Kind:
        return _Kind(self.work.model, self.ready, self.work.role, self.work.cohort)


class Backlog:
    """Work that waits, in the order of a policy, and what tenants have on engines. Not thread-safe."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._lines: dict[_Kind, _Line] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._begun: dict[str, Work] = {}
        self._ahead: dict[str, float] = {}  # by tenant: what its begun work adds to its standing
        self._active = Counter[str]()  # by tenant: its unfinished work
        self._started: set[str] = set()  # of the begun work, what an engine has taken up
        self._serving = Counter[str]()  # by tenant: how much that is
        self._began_at: dict[str, float] = {}  # by tenant, while it has any: when work began last
        self._now = -math.inf  # of the newest decision
        self._level = -math.inf  # the highest standing from which work has begun
        self._latest: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._waiting)

    def __contains__(self, work_id: object) -> bool:
        """Tell whether it waits."""
        return work_id in self._waiting

    def add(self, work: Work, *, ready: bool = True) -> None:
        """Have work wait, instead of what was known under its id. ``ready``: an engine could take it."""
        self._enter(work)
        self._discard(work.id)
        waiting = _Waiting(work, ready, False, (self.policy.key(work, False), work.id))
        self._waiting[work.id] = waiting
        latest = self.policy.latest(work)
        if latest < math.inf:
            heappush(self._latest, (latest, work.id))
        self._insert(waiting)

    def begin(self, work: Work) -> None:
        """Have work be on an engine; again, whenever less of it remains."""
        if work.id not in self._started:
            self._enter(work)
            self._discard(work.id)
            self._level = max(self._level, self._standing(work.tenant))
            self._started.add(work.id)
            self._began_at[work.tenant] = self._now
            self._serving[work.tenant] += 1
            self.policy.begin(work)
        before = self._begun.get(work.id)
        ahead = self.policy.cost(work, True) - (0.0 if before is None else self.policy.cost(before, True))
        self._begun[work.id] = work
        self._shift(work.tenant, ahead)

    def reserve(self, work: Work) -> None:
        """Have work count as its tenant's, though no engine can take it yet: it is being made ready."""
        self._enter(work)
        self._discard(work.id)
        self._begun[work.id] = work
        self._shift(work.tenant, self.policy.cost(work, False))

    def remove(self, work_id: str) -> None:
        """Forget work that ended, or that somebody else has."""
        self._discard(work_id)

    def charge(self, tenant: str, seconds: float) -> None:
        """Tell the policy what a tenant has used, in GPU-seconds."""
        self.policy.charge(tenant, seconds)
        self._shift(tenant, 0.0)

    def place(self, work: Work) -> float:
        """Return the place of work on an engine or not, its tenant's share counted; the smallest goes first."""
        return self.policy.place(work, self.key(work), self._standing(work.tenant), self._since(work.tenant))

    def key(self, work: Work) -> float:
        """Return the place of work among its tenant's own."""
        return self.policy.key(work, self._now > self.policy.latest(work))

    def in_order(
        self,
        model: str,
        now: float,
        *,
        role: Role = "both",
        cohort: int = 0,
        held: Sequence[Work] = (),
        stepping: Collection[str] = (),
    ) -> Iterator[Work]:
        """Go through the work that an engine can take, the most urgent first; nothing must change meanwhile.

        Args:
            held: what the engine has already, which is part of the order.
            stepping: of those, what its newest step had; others must be more urgent by `HYSTERESIS`.
        """
        self._note_late(now)
        kinds = [
            _Kind(model, True, one, cohort) for one in ("both", "high", "low") if "both" in (one, role) or one == role
        ]
        return self._walk([self._lines[kind] for kind in kinds if kind in self._lines], held, stepping, now)

    def all_in_order(
        self, model: str, now: float, *, held: Sequence[Work] = (), stepping: Collection[str] = ()
    ) -> Iterator[Work]:
        """Go through all the work of a model that waits, whether it is ready or not, as `in_order`; ``held`` may be
        that of several engines."""
        self._note_late(now)
        lines = [line for kind, line in self._lines.items() if kind.model == model]
        return self._walk(lines, held, stepping, now)

    def cohorts(self, model: str, role: Role) -> set[int]:
        """Return the cohorts of suspects that wait for such an engine."""
        return {
            kind.cohort
            for kind in self._lines
            if kind.cohort and kind.ready and kind.model == model and ("both" in (kind.role, role) or kind.role == role)
        }

    def _walk(
        self, lines: Sequence[_Line], held: Sequence[Work], stepping: Collection[str], now: float
    ) -> Iterator[Work]:
        """Merge the tenants. Each is entered when its first work may be next; from then on it has a place of its own,
        behind all of its work that was already passed."""
        own: dict[str, list[_Held]] = {}
        for work in held:
            favoured = replace(work, remaining=(1 - HYSTERESIS) * work.remaining) if work.id in stepping else work
            key = self.policy.key(favoured, now > self.policy.latest(work))
            own.setdefault(work.tenant, []).append((key, work.id, work, favoured))
        entered: dict[str, _Tenant] = {}
        next_up: list[_Head] = []

        def enter(tenant: str) -> None:
            mine = sorted(own.get(tenant, ()), key=_place_of)
            standing = self._standing(tenant) - sum(self.policy.cost(work, True) for _, _, work, _ in mine)
            queues = [self._works(line.queues[tenant]) for line in lines if tenant in line.queues]
            entered[tenant] = _Tenant(merge(mine, *queues, key=_place_of), standing, {one[1] for one in mine})
            if (head := self._advance(tenant, entered[tenant])) is not None:
                heappush(next_up, head)

        for tenant in own:
            enter(tenant)
        at = [0] * len(lines)
        while True:
            first: _Head | None = None
            for number, line in enumerate(lines):
                heads, here = line.heads, at[number]
                while here < len(heads) and heads[here][3] in entered:
                    here += 1
                at[number] = here
                if here < len(heads) and (first is None or heads[here] < first):
                    first = heads[here]
            if first is not None and (not next_up or first < next_up[0]):
                enter(first[3])
                continue
            if not next_up:
                return
            tenant = next_up[0][3]
            one = entered[tenant]
            assert one.next is not None
            yield one.next
            if (head := self._advance(tenant, one)) is None:
                heappop(next_up)
            else:
                heapreplace(next_up, head)

    def _works(self, queue: Iterable[_Place]) -> Iterator[_Held]:
        for key, work_id in queue:
            work = self._waiting[work_id].work
            yield key, work_id, work, work

    def _advance(self, tenant: str, one: _Tenant) -> _Head | None:
        """Go on to the tenant's next work; None: it has no more."""
        if one.next is not None:
            one.standing += self.policy.cost(one.next, one.next.id in one.held)
        found = next(one.works, None)
        if found is None:
            one.next = None
            return None
        key, work_id, one.next, favoured = found
        return self.policy.place(favoured, key, one.standing, self._since(tenant)), key, work_id, tenant

    def _since(self, tenant: str) -> float:
        return self._began_at.get(tenant, -math.inf)

    def _standing(self, tenant: str) -> float:
        return self.policy.used(tenant) + self._ahead.get(tenant, 0.0)

    def _enter(self, work: Work) -> None:
        """Count work of a tenant. One of whose work none has waited starts level with those that are served: it has
        neither saved up what it did not use, nor must it wait for what they were given in advance."""
        tenant = work.tenant
        if self._active[tenant] <= self._serving[tenant] and work.id not in self._started:
            level = min((self.policy.used(other) for other in self._serving), default=-math.inf)
            level = max(level, self._level)
            self.policy.enter(tenant, None if level == -math.inf else level)
        self._active[tenant] += 1

    def _note_late(self, now: float) -> None:
        """Move what has become late, so many at a time that no decision waits long; the others follow at the next."""
        if now == self._now:
            return  # a decision made again is the same
        self._now = now
        for _ in range(LATE_AT_ONCE):
            if not self._latest or self._latest[0][0] >= now:
                return
            latest, work_id = heappop(self._latest)
            waiting = self._waiting.get(work_id)
            if waiting is None or waiting.late or self.policy.latest(waiting.work) != latest:
                continue
            self._take_out(waiting)
            waiting.late, waiting.place = True, (self.policy.key(waiting.work, True), work_id)
            self._insert(waiting)

    def _insert(self, waiting: _Waiting) -> None:
        line = self._lines.setdefault(waiting.kind, _Line())
        tenant = waiting.work.tenant
        insort(line.queues.setdefault(tenant, []), waiting.place)
        self._refresh(line, tenant)

    def _take_out(self, waiting: _Waiting) -> None:
        kind, tenant = waiting.kind, waiting.work.tenant
        line = self._lines[kind]
        queue = line.queues[tenant]
        del queue[bisect_left(queue, waiting.place)]
        if not queue:
            del line.queues[tenant]
        self._refresh(line, tenant)
        if not line.queues:
            del self._lines[kind]

    def _discard(self, work_id: str) -> None:
        waiting, begun = self._waiting.pop(work_id, None), self._begun.pop(work_id, None)
        if waiting is not None:
            self._take_out(waiting)
        for work in (None if waiting is None else waiting.work, begun):
            if work is not None:
                self._active[work.tenant] -= 1
                if not self._active[work.tenant]:
                    del self._active[work.tenant]
        if begun is not None:
            started = work_id in self._started
            if started:
                self._started.remove(work_id)
                self._serving[begun.tenant] -= 1
                if not self._serving[begun.tenant]:
                    del self._serving[begun.tenant]
            self._shift(begun.tenant, -self.policy.cost(begun, started))

    def _shift(self, tenant: str, ahead: float) -> None:
        """Change what a tenant has on engines, and so its place among the others."""
        self._ahead[tenant] = self._ahead.get(tenant, 0.0) + ahead
        if not self._active[tenant]:
            del self._ahead[tenant]
            self._began_at.pop(tenant, None)
        for line in self._lines.values():
            if tenant in line.queues:
                self._refresh(line, tenant)

    def _refresh(self, line: _Line, tenant: str) -> None:
        """Put a tenant where its first work belongs."""
        old = line.head_of.pop(tenant, None)
        if old is not None:
            del line.heads[bisect_left(line.heads, old)]
        queue = line.queues.get(tenant)
        if queue:
            key, work_id = queue[0]
            work, standing = self._waiting[work_id].work, self._standing(tenant)
            place = self.policy.place(work, key, standing, self._since(tenant))
            line.head_of[tenant] = head = (place, key, work_id, tenant)
            insort(line.heads, head)


@dataclass
class _Tenant:
    """A tenant in the course of a walk: its work in order, of which ``held`` is on the engine already."""

    works: Iterator[_Held]
    standing: float
    held: set[str]
    next: Work | None = None


def _place_of(one: _Held) -> _Place:
    return one[0], one[1]
