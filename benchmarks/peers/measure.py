"""Run a peer's command as a process of its own; return what it took, and its clip."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from zoetrope.benchmarks.peers.peer import NotRun, Peer, PeerWork
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.model.nano.cases import Frames

VERSION = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
LOADING = 120  # seconds that an interpreter may take to say a version


class PeerFailed(Exception):
    """A peer's command failed; the message is its last words."""


@dataclass(frozen=True)
class PeerRun:
    """One run of a peer's command, from start to end of its process.

    Attributes:
        wall, processor: seconds that went by, and of all cores together.
        frames: ``[F, H, W, 3]`` uint8.
        command: as typed in the repository, with ``python`` for its interpreter and ``OUT`` for its folder.
    """

    wall: float
    processor: float
    frames: Frames
    command: str


def version_of(peer: Peer, python: str) -> str:
    """Return the version of a peer's package.

    Raises:
        NotRun: it is not installed there.
    """
    line = [python, "-c", VERSION, peer.distribution]
    try:
        said = subprocess.run(line, capture_output=True, text=True, timeout=LOADING)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotRun(f"its Python cannot be run: {error}") from None
    if said.returncode:
        raise NotRun("not installed")
    return said.stdout.strip()


def run(peer: Peer, python: str, work: PeerWork, threads: int, timeout: float) -> PeerRun:
    """Make the clip once.

    Args:
        threads: of a CPU that each process may use for its products. timeout: seconds after which it is killed.

    Raises:
        NotRun: the peer cannot do this work.
        PeerFailed: its command failed, took too long, or left no clip of the size asked for.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        line = peer.command(work, python, folder)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ZOETROPE_THREADS": str(threads)}
        before, began = _children(), time.monotonic()
        code, said = _finish(line, environment, timeout)
        wall, processor = time.monotonic() - began, _children() - before
        if code:
            raise PeerFailed(" ".join(said.split())[-300:] or f"exit status {code}")
        frames = _clip(folder)
        shown = shlex.join(line).replace(name, "OUT").replace(python, "python").replace(f"{REPOSITORY}/", "")
    if frames.shape != (work.frames, work.height, work.width, 3):
        wanted = f"{work.frames} frames of {work.width}x{work.height}"
        raise PeerFailed(f"made {frames.shape[0]} frames of {frames.shape[2]}x{frames.shape[1]} in place of {wanted}")
    return PeerRun(wall, processor, frames, shown)


def _finish(line: list[str], environment: dict[str, str], timeout: float) -> tuple[int, str]:
    """Run a command and all that it starts; return its status and what it said last."""
    try:
        process = subprocess.Popen(
            line,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise PeerFailed(str(error)) from None
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise PeerFailed(f"took longer than {timeout:g} s") from None
    return process.returncode, said


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _clip(folder: Path) -> Frames:
    """Read the one clip that a command left.

    Raises:
        PeerFailed: there is none.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in (".npy", ".mkv", ".mp4")]
    if not found:
        raise PeerFailed("it left no clip")
    if found[0].suffix == ".npy":
        frames: Frames = np.load(found[0])
        return frames
    with av.open(str(found[0])) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
