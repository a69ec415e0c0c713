"""What engines hold that they should not: segments that this router has removed, and those of one that has stopped,
which they hand over first, so that their jobs go on from there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from zoetrope.serving.router.active import job_of

HEAR_SECONDS = 10.0  # for the engines that were there to find a new router, beside the step that they are in


class Handovers:
    """Engines that have not reported yet, the jobs of which engines still hold another router's segments, and this
    router's own segments that were removed while an engine held them."""

    def __init__(self) -> None:
        self._unheard: set[str] = set()
        self._seconds = 0.0
        self._until: float | None = None
        self._held: dict[str, set[str]] = {}  # by engine
        self._removed: dict[str, str] = {}  # engines, by segment

    def expect(self, steps: Mapping[str, float]) -> None:
        """Wait for the first reports of engines, whose steps take so many seconds. Nothing starts meanwhile, because
        any of them may hold it. Time begins to run when something could start: while the router before this one still
        works, they report to that."""
        self._unheard, self._until = set(steps), None
        self._seconds = HEAR_SECONDS + max(steps.values(), default=0.0)

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
        if self._unheard:
            if self._until is None:
                self._until = now + self._seconds
            if now < self._until:
                return True
        return any(job_of(segment_id) in jobs for jobs in self._held.values())
