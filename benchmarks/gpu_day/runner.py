"""Run the stages of a call, one process each, inside its time; keep what is done, whatever happens next."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from zoetrope.benchmarks.gpu_day import archive, outcome
from zoetrope.benchmarks.gpu_day.outcome import StageOutcome, sha256
from zoetrope.benchmarks.gpu_day.stages import DayStage
from zoetrope.benchmarks.provenance import REPOSITORY, now

TAIL = 6000  # characters of a stage's output that are kept in its outcome
LOG = "log.txt"
LOGGED = 200_000  # bytes of it that are kept
OUT_OF_TIME = "out of time:"  # what the kernel benchmark says when its --limit has passed
LEAST = 10.0  # seconds: with less left, a stage is not started
DRY_PATIENCE = 20.0  # times the limit in a dry run, which is no measurement and may be on a slow and busy machine
GRACE = 3.0  # seconds between asking a stage to end and killing it
ABANDON = 10.0  # seconds after which one that cannot be killed is left behind


@dataclass(frozen=True)
class DayMachine:
    """Where and how the day runs; every outcome says it.

    Attributes:
        device: name of the GPU, or what stands in for it. jobs: stages side by side.
        environment: of all stages, in addition to this process's own.
    """

    device: str
    commit: str | None
    dry_run: bool
    jobs: int
    environment: Mapping[str, str]


class DayRun:
    """One call: goes through stages until they or the time are used up."""

    def __init__(
        self, machine: DayMachine, work: Path, out: Path, budget: float, say: Callable[[str], None] = print
    ) -> None:
        self.machine = machine
        self.work, self.out = work, out
        self.end = time.monotonic() + budget
        self.say = say
        self._packing = threading.Lock()

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def go(self, stages: Sequence[DayStage], again: bool = False) -> list[StageOutcome]:
        """Run the stages in order, except those that are settled; return the outcomes of all.

        Args:
            again: run settled ones too.

        Raises:
            ValueError: another run uses the folder of the stages, or it holds outcomes of another device, or those of a
                dry run and of a real one would mix.
        """
        found: list[StageOutcome] = []
        self.work.mkdir(parents=True, exist_ok=True)
        with alone(self.work):
            self._tidy()
            for word, group in groupby(stages, key=lambda stage: stage.beside or stage.name):
                members = list(group)
                jobs = self.machine.jobs if members[0].beside == word else 1
                with ThreadPoolExecutor(min(jobs, len(members))) as pool:
                    found += pool.map(lambda stage: self._settle(stage, again), members)
            self._pack()
        return found

    def _tidy(self) -> None:
        """Remove what a killed run has left, and check the outcomes of older ones. Raises ValueError as `go`."""
        for scratch in self.work.glob(".*"):
            shutil.rmtree(scratch)
        machine = self.machine
        for known in filter(None, map(outcome.read, sorted(self.work.iterdir()))):
            if (known.device, known.dry_run) != (machine.device, machine.dry_run):
                raise ValueError(
                    f"{self.work} holds results of {known.device}, not of {machine.device}: choose other folders"
                )

    def _settle(self, stage: DayStage, again: bool) -> StageOutcome:
        folder = self.work / stage.name
        known = outcome.read(folder)
        if known is not None and known.settled(self.machine.commit) and not again:
            self.say(f"{stage.name}: {known.state} before, {known.seconds:.0f} s")
            return known
        reason = self._why_not(stage)
        found = self._skipped(stage, reason) if reason else self._run(stage, known)
        if not (reason and known is not None):  # an older outcome says more than that it was skipped now
            self._keep(stage, found)
        self.say(f"{stage.name}: {found.state}, {found.seconds:.0f} s{f': {found.reason}' if found.reason else ''}")
        return found

    def _why_not(self, stage: DayStage) -> str:
        if self.left < LEAST:
            return "no time was left"
        for need in stage.needs:
            if need.startswith("!") and shutil.which(need[1:]) is None:
                return f"{need[1:]} is not installed"
            if not need.startswith("!") and not self._importable(need):
                return f"the module {need} is not installed"
        return ""

    def _importable(self, module: str) -> bool:
        for place in self.machine.environment.get("PYTHONPATH", "").split(os.pathsep):
            if place and ((Path(place) / module).is_dir() or (Path(place) / f"{module}.py").is_file()):
                return True
        return find_spec(module) is not None

    def _skipped(self, stage: DayStage, reason: str) -> StageOutcome:
        self._scratch(stage).mkdir(parents=True, exist_ok=True)
        return self._outcome(stage, "skipped", reason, (), None, now(), 0.0, 0.0, "")

    def _scratch(self, stage: DayStage) -> Path:
        return self.work / f".{stage.name}.{os.getpid()}"

    def _run(self, stage: DayStage, known: StageOutcome | None) -> StageOutcome:
        """Run a stage in a folder beside the one of an older outcome, fresh unless the stage goes on from there."""
        folder = self._scratch(stage)
        shutil.rmtree(folder, ignore_errors=True)
        if known is not None and known.state == "partial":
            shutil.copytree(self.work / stage.name, folder, ignore=shutil.ignore_patterns(outcome.FILE))
        folder.mkdir(parents=True, exist_ok=True)
        places = {"out": _short(folder), "work": _short(self.work)}
        filled = [text.format(**places) for text in stage.arguments(self.machine.dry_run)]
        patience = DRY_PATIENCE if self.machine.dry_run else 1.0
        limit, started, start = min(patience * stage.seconds, self.left), now(), time.monotonic()
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                (sys.executable, "-m", *filled),
                cwd=REPOSITORY,
                env={**os.environ, **self.machine.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            self.say(f"{stage.name}: started, at most {limit:.0f} s")
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                stop(process)
        took = time.monotonic() - start
        text = (folder / LOG).read_bytes()[-LOGGED:]
        (folder / LOG).write_bytes(text)
        tail = text.decode(errors="replace")[-TAIL:]
        missing = [pattern for pattern in stage.files if not any(folder.glob(pattern))]
        state, reason = _judge(code, missing, took, tail)
        command = ("python", "-m", *(text.replace(places["out"], "{out}") for text in filled))
        return self._outcome(stage, state, reason, command, code, started, took, limit, tail)

    def _outcome(
        self,
        stage: DayStage,
        state: str,
        reason: str,
        command: tuple[str, ...],
        code: int | None,
        started: str,
        seconds: float,
        limit: float,
        tail: str,
    ) -> StageOutcome:
        folder = self._scratch(stage)
        files = {str(path.relative_to(folder)): sha256(path) for path in _files(folder)}
        machine = self.machine
        return StageOutcome(
            stage=stage.name,
            state=state,
            reason=reason,
            dry_run=machine.dry_run,
            device=machine.device,
            commit=machine.commit,
            command=command,
            exit_code=code,
            started=started,
            seconds=round(seconds, 3),
            limit=round(limit, 3),
            files=files,
            tail=tail,
        )

    def _keep(self, stage: DayStage, found: StageOutcome) -> None:
        """Put the outcome in its place, and all into the archive."""
        folder, scratch = self.work / stage.name, self._scratch(stage)
        found.write(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
        self._pack()

    def _pack(self) -> None:
        with self._packing:
            archive.pack(self.work, self.out / archive.NAME)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder until the end of the block, or of this process.

    Raises:
        ValueError: another run is in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run uses {folder}: wait for its end, or choose another folder") from None
        yield
    finally:
        os.close(descriptor)


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have the kernel kill this process when the run is killed: a stage must not go on beside its successor."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _short(path: Path) -> str:
    """Return a path as a stage is told it: relative to the repository, where stages run, if it lies there."""
    whole = path.resolve()
    return str(whole.relative_to(REPOSITORY) if whole.is_relative_to(REPOSITORY) else whole)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != outcome.FILE)


def _judge(code: int | None, missing: Sequence[str], seconds: float, tail: str) -> tuple[str, str]:
    """Return the state and the reason of a stage that ran."""
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "")[:200]
    if code is None:
        return "timeout", f"stopped after {seconds:.0f} s; its last words: {last}"
    if missing:
        return "failed", f"it left no {', '.join(missing)} (exit code {code}); its last words: {last}"
    if code == 0:
        limited = next((line for line in tail.splitlines() if line.startswith(OUT_OF_TIME)), None)
        return ("passed", "") if limited is None else ("partial", limited)
    found = code == 1 and "Traceback (most recent call last)" not in tail
    return ("wrong" if found else "failed"), f"exit code {code}; its last words: {last}"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and whatever else is left of the group."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, ABANDON)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
    process.poll()
