"""What the decoder gives back."""

from __future__ import annotations

from dataclasses import dataclass

from serving.jobs.job import Result


@dataclass(frozen=True)
class Rendered:
    """A stored video or picture, and what the output check said of it (None: nobody was asked)."""

    result: Result
    verdict: dict[str, str] | None
