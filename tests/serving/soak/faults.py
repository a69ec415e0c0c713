"""What a soak does to a service, each fault by name, and in which order."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from tests.serving.soak.proxy import Proxy
from tests.serving.soak.service import Service, over, until
from zoetrope.benchmarks.serving_load.process_kinds import KINDS

VICTIM_SECONDS = 120.0  # for a process of a kind to be there
LOST_ANSWERS = 8  # to COMMITs in a row, of whichever processes


@dataclass
class Scene:
    """What faults act on; None where a run has no such thing.

    Attributes:
        database: the proxy in front of PostgreSQL. file: SQLite's. bucket: the proxy in front of S3. disk: a file
            system of the data directory alone, which can be filled.
        pause_seconds: that processes are stopped for; away_seconds: that databases, buckets and space are away for.
    """

    service: Service
    rng: random.Random
    pause_seconds: float
    away_seconds: float
    database: Proxy | None = None
    file: Path | None = None
    bucket: Proxy | None = None
    disk: Path | None = None


@dataclass(frozen=True)
class Fault:
    """``strike`` gives the moment, on the monotonic clock, from which on the service could heal; ``lacks`` names what a
    scene lacks for it."""

    name: str
    strike: Callable[[Scene], float]
    lacks: Callable[[Scene], str] = lambda _: ""


def _victim(scene: Scene, kind: str) -> psutil.Process:
    found = until(lambda: scene.service.find(kind), VICTIM_SECONDS, f"a {kind} runs")
    return scene.rng.choice(found)


def _kill(kind: str, scene: Scene) -> float:
    victim = _victim(scene, kind)
    now = time.monotonic()
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.kill()
    until(lambda: over(victim), 30, f"the {kind} is dead")
    return now


def _kill_supervisor(scene: Scene) -> float:
    scene.service.kill_supervisor()
    now = time.monotonic()
    scene.service.start()
    return now


def _restart(scene: Scene) -> float:
    status = scene.service.stop()
    assert status == 0, f"it stopped with status {status}"
    now = time.monotonic()
    scene.service.start()
    return now


def _pause(kind: str, scene: Scene) -> float:
    victim = _victim(scene, kind)
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.SIGSTOP)
        time.sleep(scene.pause_seconds)  # how long it lasts is the fault
        victim.send_signal(signal.SIGCONT)
    return time.monotonic()


def _lose_answers(scene: Scene) -> float:
    proxy = scene.database
    assert proxy is not None
    before = proxy.lost
    proxy.lose_answers(LOST_ANSWERS)
    until(lambda: proxy.lost - before >= LOST_ANSWERS, 60, "so many transactions are committed")
    return time.monotonic()


def _database_away(scene: Scene) -> float:
    if scene.database is not None:
        with scene.database.away():
            time.sleep(scene.away_seconds)
        return time.monotonic()
    with contextlib.closing(sqlite3.connect(f"file:{scene.file}", uri=True, timeout=60, isolation_level=None)) as taken:
        taken.execute("BEGIN IMMEDIATE")
        time.sleep(scene.away_seconds)
        taken.execute("ROLLBACK")
    return time.monotonic()


def _bucket_away(scene: Scene) -> float:
    assert scene.bucket is not None
    with scene.bucket.away():
        time.sleep(scene.away_seconds)
    return time.monotonic()


def _fill_disk(scene: Scene) -> float:
    assert scene.disk is not None
    ballast = scene.disk / "ballast"
    end = time.monotonic() + scene.away_seconds
    try:
        with ballast.open("wb", buffering=0) as file:
            while time.monotonic() < end:
                try:
                    while file.write(b"\0" * (1 << 20)):  # less than all of it fits at last
                        pass
                except OSError:
                    time.sleep(0.05)  # take at once what somebody frees
    finally:
        ballast.unlink(missing_ok=True)
    return time.monotonic()


def _needs(attribute: str, what: str) -> Callable[[Scene], str]:
    return lambda scene: "" if getattr(scene, attribute) is not None else what


KILLS: Sequence[Fault] = (
    *(Fault(f"kill {kind}", partial(_kill, kind)) for kind in KINDS),
    Fault("kill supervisor, start", _kill_supervisor),
)
OTHERS: Sequence[Fault] = (
    Fault("database away", _database_away),
    Fault("answer to COMMIT lost", _lose_answers, _needs("database", "PostgreSQL behind a proxy")),
    Fault("S3 away", _bucket_away, _needs("bucket", "S3 behind a proxy")),
    Fault("disk full", _fill_disk, _needs("disk", "a file system of its own, which takes root to mount")),
    Fault("planned restart", _restart),
    *(Fault(f"stop {kind}", partial(_pause, kind)) for kind in (*KINDS, "supervisor")),
)


def schedule(scene: Scene, kills: int, others: int) -> list[Fault]:
    """So many of each, every fault that can be done here as often as any other or once more, in an order by chance."""
    chosen = _cycle(KILLS, kills, scene) + _cycle(OTHERS, others, scene)
    scene.rng.shuffle(chosen)
    return chosen


def left_out(scene: Scene) -> list[str]:
    return [f"{fault.name}: needs {fault.lacks(scene)}" for fault in OTHERS if fault.lacks(scene)]


def _cycle(faults: Sequence[Fault], count: int, scene: Scene) -> list[Fault]:
    possible = [fault for fault in faults if not fault.lacks(scene)]
    chosen: list[Fault] = []
    while len(chosen) < count:
        chosen += scene.rng.sample(possible, min(len(possible), count - len(chosen)))
    return chosen
