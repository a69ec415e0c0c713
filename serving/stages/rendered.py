"""The decoder's result."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.serving.jobs.job import Result


@dataclass(frozen=True)
class Rendered:
    """A stored video or picture, and the output check's verdict (None if no check is configured)."""

    result: Result
    verdict: dict[str, str] | None
