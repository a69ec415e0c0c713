"""What engines hold that they should not: segments that this router has removed, and those of one that has stopped,
which they hand over first, so that their jobs go on from there."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zoetrope.serving.router.active import job_of

HEAR_SECONDS = 3.0  # for the engines that were there to report to a new router


class Handovers:
    """Engines that have not reported yet, the jobs of which engines still hold another router's segments, and this
    router's own segments that were removed while an engine held them."""

    def __init__(self) -> None:
        self._unheard: set[str] = set()
        self._until = 0.0
        self._held: dict[str, set[str]] = {}  # by engine
        self._removed: dict[str, str] = {}  # engines, by segment

    def expect(self, engines: Collection[str], now: float) -> None:
        """Wait for the first reports of these engines, for HEAR_SECONDS at most. Nothing starts meanwhile, because any
        of them may hold it."""
        self._unheard, self._until = set(engines), now + HEAR_SECONDS

    def hear(self, engine: str, foreign: Iterable[str]) -> None:
        """Learn which segments of another router an engine still holds."""
        self._unheard.discard(engine)
        self._held[engine] = {job_of(segment_id) for segment_id in foreign}
        if not self._held[engine]:
            del self._held[engine]

    def forget(self, engine: str) -> None:
        """Wait no longer for an engine that is gone, and with it all that it held."""
        self.hear(engine, ())
        self.over([segment_id for segment_id, holder in self._removed.items() if holder == engine])

    def remove(self, segment_id: str, engine: str) -> None:
        """Learn that a segment was removed while an engine held it."""
        self._removed[segment_id] = engine

    def removed(self, segment_id: str) -> bool:
        """Tell whether a segment was removed, and an engine may still hold it."""
        return segment_id in self._removed

    def over(self, segment_ids: Collection[str]) -> None:
        """Forget removed segments, which no engine holds any more."""
        for segment_id in segment_ids:
            self._removed.pop(segment_id, None)

    def hold_back(self, segment_id: str, now: float) -> bool:
        """Tell whether a segment must not start yet."""
        if self._unheard and now < self._until:
            return True
        return any(job_of(segment_id) in jobs for jobs in self._held.values())
