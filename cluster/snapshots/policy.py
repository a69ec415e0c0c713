"""When a segment gets a snapshot."""

from __future__ import annotations

from cluster.settings import EngineSettings


def due(
    step: int,
    steps: int,
    seconds_since_last: float,
    step_seconds: float,
    copy_seconds: float,
    settings: EngineSettings,
) -> bool:
    """Whether to take one now, after ``step`` of ``steps``.

    After the last step always: that one is the result. In between every ``snapshot_steps``, if they are set. Otherwise
    as soon as one more step would make it more than ``snapshot_seconds`` since the last snapshot, but never so often
    that copying costs more than ``snapshot_share`` of the time.

    Args:
        seconds_since_last: since the segment's last snapshot, or since it was started or resumed.
        step_seconds: what a step of its batch takes.
        copy_seconds: for which a step waits to have every segment of the batch copied; what happens in the background
            does not count. 0 while it is not known.
    """
    if step < 1:
        return False
    if step >= steps:
        return True
    if settings.snapshot_steps is not None:
        return step % settings.snapshot_steps == 0
    if seconds_since_last * settings.snapshot_share < copy_seconds:
        return False
    return seconds_since_last + step_seconds > settings.snapshot_seconds
