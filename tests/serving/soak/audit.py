"""What is left after a soak: rows, ends, files, snapshots, messages, held against what clients were told."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving.soak.clients import HOOKED, Ledger
from zoetrope.cluster.snapshots.objects import SnapshotObjects
from zoetrope.serving.jobs.job import Job, State, file_keys
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.media import MediaError, probe
from zoetrope.serving.storage.job_files import STRAY_SECONDS
from zoetrope.serving.storage.store import ArtifactError, ArtifactStore, open_artifacts
from zoetrope.serving.sweeper.sweep import sweep, tidy

ALL = 10**6
ROUNDS = 100  # of the sweeper, far more than it takes


@dataclass
class Audit:
    """What was found; all is well while there are no ``problems``."""

    states: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    files: int = 0
    strays: int = 0  # that the sweeper had to remove
    problems: list[str] = field(default_factory=list)


def audit(database: str, artifacts_url: str, directory: Path, ledger: Ledger) -> Audit:
    """Look at everything that a service which has stopped left. Changes it: the sweeper passes once more, an hour
    later by its clock, so that it looks at all that it ever will."""
    found = Audit(problems=list(ledger.problems))
    artifacts, shelf = open_artifacts(artifacts_url), SnapshotObjects(str(directory))
    with contextlib.closing(open_stores(database)) as stores:
        jobs = {job.id: job for job in stores.jobs.list("", page_size=ALL)}
        _check_rows(jobs, stores, ledger, found)
        _check_messages(stores, ledger, found)
        for job in jobs.values():
            if job.state is State.SUCCEEDED:
                _check_file(job, artifacts, ledger, found)
        found.strays = len(_strays(artifacts, jobs))
        tidy(stores, artifacts, shelf)
    with contextlib.closing(open_stores(database, lambda: time.time() + STRAY_SECONDS)) as later:
        for _ in range(ROUNDS):
            sweep(later, artifacts, shelf)
            if not later.jobs.deleted(1):
                break
    if strays := _strays(artifacts, jobs):
        found.problems.append(f"{len(strays)} files belong to no job, such as {strays[0]}")
    if snapshots := shelf.jobs():
        found.problems.append(f"{len(snapshots)} jobs that are over have snapshots")
    return found


def _check_rows(jobs: dict[str, Job], stores: Stores, ledger: Ledger, found: Audit) -> None:
    """One row for each job that was accepted and not deleted, and one end for each that was accepted."""
    orders = {order.job_id: order for order in ledger.orders.values()}
    if len(orders) != len(ledger.orders):
        found.problems.append(f"{len(ledger.orders) - len(orders)} jobs were given to several requests")
    for job_id in orders.keys() - jobs.keys():
        if not orders[job_id].deleted:
            found.problems.append(f"{job_id} is gone")
    for job_id in jobs.keys() - orders.keys():
        found.problems.append(f"{job_id} was made for nobody")
    for job_id, order in orders.items():
        ends = [e for e in stores.jobs.events(job_id, "") if e.to_state is not None and State(e.to_state).final]
        if len(ends) != 1:
            found.problems.append(f"{job_id} ended {len(ends)} times")
        if order.deleted and job_id in jobs:
            found.problems.append(f"{job_id} was deleted and is there")
    for job in jobs.values():
        found.states[str(job.state)] += 1
        found.attempts[job.attempt] += 1


def _check_file(job: Job, artifacts: ArtifactStore, ledger: Ledger, found: Audit) -> None:
    """That the file is what its row says and holds as many frames as were asked for."""
    asked = next((order.frames for order in ledger.orders.values() if order.job_id == job.id), None)
    assert job.result is not None
    video = job.result["video"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        try:
            artifacts.copy_to(video["key"], path)
            if hashlib.sha256(path.read_bytes()).hexdigest() != video["sha256"]:
                found.problems.append(f"{job.id}: the file has another checksum than its row")
            frames = probe(path).frames
        except (ArtifactError, MediaError) as error:
            found.problems.append(f"{job.id} succeeded, its file: {error}")
            return
    if frames != asked:
        found.problems.append(f"{job.id}: {frames} frames instead of {asked}")
    found.files += 1


def _check_messages(stores: Stores, ledger: Ledger, found: Audit) -> None:
    """Each event of each job, under one id. A job that was cancelled in the queue never started."""
    for order in ledger.orders.values():
        started = any(event.to_state == State.RUNNING for event in stores.jobs.events(order.job_id, ""))
        for event in HOOKED:
            ids = ledger.webhooks.get((order.job_id, f"video.{event}"), set())
            if len(ids) != (1 if started or event != "start" else 0):
                found.problems.append(f"{order.job_id}: {event} came under {len(ids)} ids")


def _strays(artifacts: ArtifactStore, jobs: dict[str, Job]) -> list[str]:
    """Files of jobs that no row names."""
    known = {key for job in jobs.values() for key in file_keys(job)}
    return sorted(set(artifacts.below("jobs")) - known)
