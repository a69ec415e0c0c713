"""What a peer is: a project that makes a clip of a Wan checkpoint by one command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PeerWork:
    """The clip that all make.

    Attributes:
        model: a checkpoint in diffusers' layout. original: the same weights in the layout of Wan's own releases, ""
            if there is none. hub_name: its name at Hugging Face, "" if it has none.
        shift: of the checkpoint's noise schedule, for peers that do not read it there.
        seed: of `torch.Generator("cpu")`, where a peer lets one choose.
    """

    model: str
    original: str
    hub_name: str
    prompt: str
    negative: str
    width: int
    height: int
    frames: int
    steps: int
    guidance: float
    shift: float
    seed: int

    def in_steps(self, steps: int) -> PeerWork:
        """Return the same work with another number of steps."""
        return replace(self, steps=steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class NotRun(Exception):
    """A peer cannot do this work; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A project to compare with.

    Attributes:
        distribution: its package, whose version is recorded.
        command: returns the command that makes the clip. It gets the work, the Python of the peer's environment and
            an empty folder, in which it leaves one file: a video, or frames ``[F, H, W, 3]`` uint8 as .npy. Raises
            `NotRun` if the peer cannot do the work.
        source: where the command line was read, and whether it was ever run by us.
    """

    name: str
    distribution: str
    command: Callable[[PeerWork, str, Path], list[str]]
    source: str


def beside(python: str, name: str) -> str:
    """Return the path of a program that a package installed beside an interpreter."""
    return str(Path(python).with_name(name))
