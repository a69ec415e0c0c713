"""What measured figures are held against: limits of the device, peers of the same run, and what others published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ANCHORS = Path(__file__).with_suffix(".json")
LABEL = "published by others, not measured by us"


@dataclass(frozen=True)
class BoundAnchor:
    """A limit of the device, a row of the section ``bounds`` of the same results, for all cases of some sections."""

    sections: tuple[str, ...]
    name: str
    label: str


@dataclass(frozen=True)
class PeerAnchor:
    """The fastest of some contenders of a section, case by case."""

    section: str
    names: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class PublishedStep:
    """Seconds of a denoising step as somebody published them.

    Attributes:
        system: what was measured. publisher: who measured it. source: where they say so. hardware: of ``gpus`` GPUs.
        what: model, size, frames and guidance. compare: our steps (preset and size) of nearly the same work.
    """

    system: str
    seconds: float
    gpus: int
    hardware: str
    publisher: str
    what: str
    compare: tuple[str, ...]
    source: str

    @property
    def label(self) -> str:
        return f"{self.system}, {self.gpus} x {self.hardware}"


@dataclass(frozen=True)
class Anchors:
    """The contents of ``anchors.json``."""

    bounds: tuple[BoundAnchor, ...]
    peers: tuple[PeerAnchor, ...]
    published: tuple[PublishedStep, ...]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Anchors:
        return cls(
            tuple(BoundAnchor(tuple(one["sections"]), one["name"], one["label"]) for one in stored["bounds"]),
            tuple(PeerAnchor(one["section"], tuple(one["names"]), one["label"]) for one in stored["peers"]),
            tuple(PublishedStep(**{**one, "compare": tuple(one["compare"])}) for one in stored["published"]),
        )


@cache
def anchors(path: Path = ANCHORS) -> Anchors:
    """Read the anchors."""
    return Anchors.of(json.loads(path.read_text()))
