"""What a router and an engine say to each other: plain data, no tensors but opaque references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.tasks import SegmentSpec


@dataclass(frozen=True)
class Admit:
    """Start a segment. ``conditions`` is a reference to the conditioner's output; the router never opens it."""

    spec: SegmentSpec
    conditions: Any


@dataclass(frozen=True)
class Plan:
    """The next thing an engine does: forget, start, then take one step with the segments in ``advance``."""

    drop: tuple[str, ...] = ()
    admit: tuple[Admit, ...] = ()
    advance: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """A segment that an engine holds and the steps it has behind it."""

    id: str
    step: int


@dataclass(frozen=True)
class Finished:
    """A segment that took its last step; ``latents`` is a reference to ``[C, T, H, W]`` float32."""

    id: str
    latents: Any


@dataclass(frozen=True)
class Failed:
    """A segment that an engine gave up."""

    id: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What an engine says when it asks for its next plan; it doubles as the heartbeat."""

    engine: str
    gang_epoch: int  # grows when the gang is rebuilt, which loses what the old one held
    model: str
    held: tuple[Held, ...] = ()
    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    step_seconds: float = 0.0  # of the plan just done; 0 when it had no step
    step_tokens: int = 0
