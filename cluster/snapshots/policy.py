"""Decides when a segment gets a snapshot."""

from __future__ import annotations

from zoetrope.cluster.protocol.settings import EngineSettings


def due(
    step: int,
    steps: int,
    seconds_since_last: float,
    step_seconds: float,
    copy_seconds: float,
    settings: EngineSettings,
    few_steps: bool = False,
    last_step: int | None = None,
) -> bool:
    """Return whether to take one now, after ``step`` of ``steps``.

    Always after the last step: that is the result. With few steps after each, since each is a large part of the whole.
    Otherwise every ``snapshot_steps`` if they are set; otherwise as
    soon as one more step would exceed ``snapshot_seconds`` since the last snapshot, but never so often that copying
    costs more than ``snapshot_share`` of the time.

    Args:
        seconds_since_last: since the segment's last snapshot, or since it was started or resumed.
        step_seconds: duration of a step of its batch.
        copy_seconds: how long a step waits until every segment of the batch is copied; work in the background does not
            count. 0: not known yet.
        few_steps: the segment samples by a profile (`model.request.profile`).
        last_step: after which the last one was taken, or the segment resumed; None: the step before. Of steps that
            reuse a velocity, several pass at once.
    """
    if step < 1:
        return False
    if step >= steps or few_steps:
        return True
    if settings.snapshot_steps is not None:
        before = step - 1 if last_step is None else last_step
        return step // settings.snapshot_steps > before // settings.snapshot_steps
    if seconds_since_last * settings.snapshot_share < copy_seconds:
        return False
    return seconds_since_last + step_seconds > settings.snapshot_seconds
