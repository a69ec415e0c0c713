"""The steps that jobs took, as the engine of a service of the benchmark's own notes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LAST = -1  # a segment's last step


@dataclass
class NotedSteps:
    """Of one job. ``taken``: all steps of all its segments. ``again``: those of them that it had taken before."""

    taken: int = 0
    again: int = 0
    _seen: set[tuple[str, int]] = field(default_factory=set, repr=False)

    def add(self, segment: str, step: int | None) -> None:
        """Count a step of a segment; None: it is not known which, so it counts as a new one."""
        self.taken += 1
        if step is not None:
            self.again += (segment, step) in self._seen
            self._seen.add((segment, step))


def noted_steps(lines: Iterable[Mapping[str, Any]]) -> dict[str, NotedSteps]:
    """Count the steps of each job, by its id.

    Args:
        lines: of `packed_throughput.host`: ``took``, the segments in a step, each ``JOB/CLAIM/NUMBER``; ``held``, by
            segment the number of steps that it then has behind it; ``finished``, the segments whose last step it was.
    """
    found: dict[str, NotedSteps] = {}
    for line in lines:
        for name in line["took"]:
            job, segment = name.partition("/")[0], name.rpartition("/")[2]
            step = LAST if name in line["finished"] else line["held"].get(name)
            found.setdefault(job, NotedSteps()).add(segment, step)
    return found
