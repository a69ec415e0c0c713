"""How many engines the queued work wants, and how long a first one takes to start: pure functions of what is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoetrope.serving.config.engine_groups import bounds_of, engine_groups
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import UnfinishedWork


@dataclass(frozen=True)
class Scale:
    """The bounds of a group of like engines.

    Attributes:
        least, most: engines. gpus: of an engine.
        target_seconds: in which its engines should do what is queued for them.
        share: of the queued work that is theirs.
    """

    least: int
    most: int
    gpus: int = 1
    target_seconds: float = 300.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise ValueError(f"least is {self.least} and most is {self.most}: it must be 0 <= least <= most")

    @property
    def varies(self) -> bool:
        return self.least < self.most


def scales(settings: Settings) -> dict[str, Scale]:
    """Return the bounds of each deployment of engines, by its name: one for each size, or two of them if the noise
    experts are apart. They share the work by their GPUs.

    Raises:
        ValueError: fewer engines are allowed than must be kept.
    """
    names = ("Engine-high-noise", "Engine-low-noise") if settings.noise_experts == "apart" else ("Engine",)
    groups = engine_groups(settings)
    bounds = [bounds_of(settings, group.count) for group in groups]
    gpus = sum(most * group.ranks for group, (_, most) in zip(groups, bounds, strict=True))
    found: dict[str, Scale] = {}
    for group, (least, most) in zip(groups, bounds, strict=True):
        share = most * group.ranks / gpus / len(names)
        scale = Scale(least, most, group.ranks, settings.scale_target_seconds, share)
        found |= {name if group is groups[0] else f"{name}-{group.ranks}": scale for name in names}
    return found


def desired_engines(work: UnfinishedWork, scale: Scale) -> int:
    """Return the number of engines that do the queued GPU-seconds in the target time: within the bounds, and at least
    one while a job needs an engine, also if nobody knows its price."""
    wanted = math.ceil(scale.share * work.gpu_seconds / (scale.gpus * scale.target_seconds))
    if work.jobs:
        wanted = max(wanted, 1)
    return max(scale.least, min(scale.most, wanted))


class ColdStart:
    """Measures how long work waits for a first engine while there is none. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.seconds: float | None = None  # of the last one
        self._since: float | None = None
        self._engines = 0

    def see(self, engines: int, waiting: bool, now: float) -> None:
        """Take note of how many engines there are, and whether anything waits for one."""
        if engines and self._since is not None:
            self.seconds, self._since = now - self._since, None
        elif not engines and self._since is None and waiting:
            self._since = now
        self._engines = engines

    def expected(self, now: float) -> float | None:
        """Return the seconds until a first engine takes work, as far as the last one tells; None if there is one."""
        if self._engines or self.seconds is None:
            return None
        return max(0.0, self.seconds - (0.0 if self._since is None else now - self._since))
