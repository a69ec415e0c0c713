"""What became of a stage: a file in its folder, valid or as good as absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from zoetrope.benchmarks.command import write_json

SCHEMA = 1
FILE = "outcome.json"
STATES = {
    "passed": "it ran to its end",
    "partial": "it stopped at a limit of its own, with all that it had until then; another run goes on from there",
    "wrong": "it ran to its end and found something wrong, which its files tell",
    "failed": "it ended early, or left less than it should",
    "timeout": "it was stopped at its limit",
    "skipped": "something that it needs is not there, or no time was left",
}
COMPLETE = ("passed", "partial", "wrong")  # their files say something


class InvalidOutcome(ValueError):
    """A file that is no outcome, or whose files are missing or changed."""


@dataclass(frozen=True)
class StageOutcome:
    """One run of one stage.

    Attributes:
        state: a key of `STATES`. reason: one line for people; empty if it passed.
        device: name of the GPU; in a dry run what stood in for it. commit: of the code; None if nobody said.
        command: what ran. exit_code: None if it was not started, or was stopped.
        started: UTC, ISO 8601. seconds: it took. limit: seconds that it had.
        files: names relative to the stage's folder, each with its SHA-256.
        tail: the end of what it printed.
    """

    stage: str
    state: str
    reason: str
    dry_run: bool
    device: str
    commit: str | None
    command: tuple[str, ...]
    exit_code: int | None
    started: str
    seconds: float
    limit: float
    files: Mapping[str, str]
    tail: str
    schema: int = SCHEMA

    @property
    def complete(self) -> bool:
        return self.state in COMPLETE

    def settled(self, commit: str | None) -> bool:
        """Tell whether the stage need not run again: it came to its end, or this very code has failed in it before."""
        ended = self.complete and self.state != "partial"
        return ended or (self.state in ("failed", "timeout") and self.commit == commit)

    def write(self, folder: Path) -> None:
        """Write it atomically into the folder of its stage."""
        write_json(folder / FILE, {**asdict(self), "files": dict(self.files)})


def read(folder: Path) -> StageOutcome | None:
    """Return the outcome in a stage's folder; None if there is no valid one."""
    try:
        return load(folder)
    except InvalidOutcome:
        return None


def load(folder: Path) -> StageOutcome:
    """Read and check the outcome in a stage's folder.

    Raises:
        InvalidOutcome: there is none, or it is not what a run writes.
    """
    path = folder / FILE
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidOutcome(f"{path}: {error}") from error
    outcome = _parsed(stored, path)
    for name, digest in outcome.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise InvalidOutcome(f"{path}: {name} is not in the folder")
        if sha256(file) != digest:
            raise InvalidOutcome(f"{path}: {name} has changed since the stage wrote it")
    return outcome


KINDS: dict[str, tuple[type, ...]] = {
    "stage": (str,),
    "state": (str,),
    "reason": (str,),
    "dry_run": (bool,),
    "device": (str,),
    "commit": (str, type(None)),
    "command": (list,),
    "exit_code": (int, type(None)),
    "started": (str,),
    "seconds": (int, float),
    "limit": (int, float),
    "files": (dict,),
    "tail": (str,),
    "schema": (int,),
}


def _parsed(stored: Any, path: Path) -> StageOutcome:
    if not isinstance(stored, dict) or set(stored) != {field.name for field in fields(StageOutcome)}:
        raise InvalidOutcome(f"{path}: its fields must be {', '.join(KINDS)}")
    for name, kinds in KINDS.items():
        if type(stored[name]) not in kinds:
            raise InvalidOutcome(
                f"{path}: {name} is {stored[name]!r}: it must be {' or '.join(k.__name__ for k in kinds)}"
            )
    if stored["schema"] != SCHEMA:
        raise InvalidOutcome(f"{path}: schema is {stored['schema']}, must be {SCHEMA}")
    if stored["state"] not in STATES:
        raise InvalidOutcome(f"{path}: state is {stored['state']!r}, must be one of {', '.join(STATES)}")
    if stored["stage"] != path.parent.name:
        raise InvalidOutcome(f"{path}: stage is {stored['stage']!r}, must be the folder's name")
    if not all(isinstance(text, str) for text in (*stored["command"], *stored["files"], *stored["files"].values())):
        raise InvalidOutcome(f"{path}: command and files must consist of strings")
    return StageOutcome(**{**stored, "command": tuple(stored["command"])})


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
