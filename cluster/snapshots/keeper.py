"""Decides which segments of an engine get a snapshot after a step; the first rank of a gang has a keeper."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.format import Fingerprint, Snapshot
from zoetrope.cluster.snapshots.policy import due
from zoetrope.cluster.snapshots.writer import SnapshotWriter
from zoetrope.model.denoising.denoise import Segment
from zoetrope.model.denoising.resume import state_of


@dataclass
class _Kept:
    """A tracked segment. ``since``: the time of its last snapshot, which was taken at ``step``."""

    owner: Owner
    fingerprint: Fingerprint
    since: float
    step: int
    copy_seconds: float | None = None


class SnapshotKeeper:
    """Takes the snapshots that are `due`, and measures what they cost."""

    def __init__(
        self,
        writer: SnapshotWriter,
        settings: EngineSettings,
        model: str,
        scheduler_config: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._model = model
        self._scheduler_config = scheduler_config
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._copy_seconds = 0.0  # of the last copy, assumed for segments that had none yet

    def track(self, segment: Segment, owner: Owner) -> None:
        """Take snapshots of a segment from now on; it has none yet, or was resumed from one of its present step."""
        fingerprint = Fingerprint.of(self._model, segment.spec, self._scheduler_config)
        self._kept[segment.spec.id] = _Kept(owner, fingerprint, self._clock(), segment.sampler.step)

    def forget(self, segment_id: str) -> None:
        """Take no more snapshots of a segment; those taken are still written."""
        self._kept.pop(segment_id, None)

    def after_step(self, segments: Iterable[Segment], step_seconds: float) -> float:
        """Take the snapshots that are due of the segments that took a step.

        Returns:
            Seconds that the engine had to wait.
        """
        found = [(segment, kept) for segment in segments if (kept := self._kept.get(segment.spec.id)) is not None]
        copy_seconds = sum(self._copy_seconds if k.copy_seconds is None else k.copy_seconds for _, k in found)
        now, waited = self._clock(), 0.0
        for segment, kept in found:
            step, steps, few = segment.sampler.step, segment.spec.steps, segment.spec.profile is not None
            if due(step, steps, now - kept.since, step_seconds, copy_seconds, self._settings, few, kept.step):
                waited += self._snapshot(segment, kept)
        return waited

    def checkpoint(self, segments: Iterable[Segment], timeout: float, *, ended: bool = False) -> bool:
        """Take a snapshot of each segment that has none of its present step, and wait for them.

        Args:
            ended: wait for those of all other segments too: one that has ended is resumed from its last step if its
                latents are lost before they are decoded.

        Returns:
            Whether all were written within ``timeout`` seconds.
        """
        found = [(segment, kept) for segment in segments if (kept := self._kept.get(segment.spec.id)) is not None]
        for segment, kept in found:
            if kept.step != segment.sampler.step or self._writer.lost(kept.owner):
                self._snapshot(segment, kept)
        return self._writer.flush(timeout, None if ended else [kept.owner for _, kept in found])

    def _snapshot(self, segment: Segment, kept: _Kept) -> float:
        seconds = self._writer.enqueue(Snapshot(kept.owner, kept.fingerprint, state_of(segment)))
        kept.since, kept.step = self._clock(), segment.sampler.step
        kept.copy_seconds = self._copy_seconds = seconds
        return seconds
