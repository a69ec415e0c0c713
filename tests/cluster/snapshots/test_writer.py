"""The writer keeps steps and the store apart."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.cluster.snapshots.samples import OWNER, equal, fingerprint, snapshot
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.snapshots.format import Snapshot
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.cluster.snapshots.writer import SnapshotWriter

LIMIT = 30.0  # seconds; nothing here takes long


class Gate(SnapshotStore):
    """A store as slow as a test wants it to be: each write waits until it is let through."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.begun = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.steps: list[tuple[int, int]] = []

    def put(self, snapshot: Snapshot) -> str:
        self.steps.append((snapshot.owner.index, snapshot.step))
        self.begun.release()
        assert self.open.acquire(timeout=LIMIT)
        return super().put(snapshot)


def test_what_is_submitted_is_written(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path))
    writer = SnapshotWriter(store)
    assert writer.enqueue(snapshot(5)) > 0
    assert writer.flush(LIMIT)
    found = store.latest(OWNER, fingerprint())
    assert found is not None and equal(found, snapshot(5))
    assert (writer.written, writer.failed, writer.failures) == (1, 0, ())
    assert writer.close(LIMIT)


def test_a_newer_one_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    gate = Gate(str(tmp_path))
    writer = SnapshotWriter(gate)
    second = replace(OWNER, index=7)
    writer.enqueue(snapshot(1))
    assert gate.begun.acquire(timeout=LIMIT)
    for step in range(2, 9):
        writer.enqueue(snapshot(step))
        writer.enqueue(snapshot(step, second))
    assert not writer.flush(0)
    for _ in range(3):
        gate.open.release()
    assert writer.flush(LIMIT)
    assert gate.steps == [(2, 1), (2, 8), (7, 8)]
    assert writer.written == 3
    for owner in (OWNER, second):
        found = gate.latest(owner, fingerprint())
        assert found is not None and found.step == 8
    writer.close(LIMIT)


def test_what_is_written_is_as_it_was_when_it_was_submitted(tmp_path: Path) -> None:
    gate = Gate(str(tmp_path))
    writer = SnapshotWriter(gate)
    taken = snapshot(5)
    writer.enqueue(taken)
    for tensor in taken.state.tensors().values():
        tensor.zero_()
    gate.open.release()
    assert writer.flush(LIMIT)
    found = gate.latest(OWNER, fingerprint())
    assert found is not None and equal(found, snapshot(5))
    writer.close(LIMIT)


def test_tensors_of_inference_mode_can_be_written(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path))
    writer = SnapshotWriter(store)
    with torch.inference_mode():
        taken = snapshot(5)
        assert taken.state.latents.is_inference()
        writer.enqueue(taken)
    assert writer.close(LIMIT)
    found = store.latest(OWNER, fingerprint())
    assert found is not None and equal(found, snapshot(5))


def test_a_failing_store_is_reported_and_nothing_is_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SnapshotStore(str(tmp_path))
    blocker = tmp_path / "snapshots"
    blocker.write_text("in the way")
    writer = SnapshotWriter(store)
    with caplog.at_level(logging.WARNING, logger="zoetrope.snapshots"):
        for step in (3, 4):
            writer.enqueue(snapshot(step))
            assert not writer.flush(LIMIT)
    assert writer.lost(OWNER)
    assert [(f.owner, f.step) for f in writer.failures] == [(OWNER, 3), (OWNER, 4)]
    assert all(f.reason.startswith("SnapshotError: snapshot snapshots/vid_job-1") for f in writer.failures)
    assert (writer.written, writer.failed) == (0, 2)
    assert "no snapshot of segment 2 of job vid_job-1 after step 4" in caplog.text
    assert writer.flush(LIMIT, [Owner("another", 0, 1)])
    blocker.unlink()  # the store is back, and so is the writer
    writer.enqueue(snapshot(5))
    assert writer.flush(LIMIT)
    assert not writer.lost(OWNER)
    found = store.latest(OWNER, fingerprint())
    assert found is not None and found.step == 5
    writer.close(LIMIT)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {'not root' if mounted is None else mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.integration
def test_a_full_disk_costs_snapshots_and_nothing_else(small_disk: Path) -> None:
    """Older ones stay and nothing half; when there is room again it goes on."""
    store = SnapshotStore(str(small_disk))
    writer = SnapshotWriter(store)
    writer.enqueue(snapshot(3))
    assert writer.flush(LIMIT)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    for step in (4, 5):
        writer.enqueue(snapshot(step))
        assert not writer.flush(LIMIT)
        found = store.latest(OWNER, fingerprint())
        assert found is not None and equal(found, snapshot(3))
    assert "No space left on device" in writer.failures[-1].reason
    kept = [path for path in small_disk.rglob("*") if path.is_file() and path != ballast]
    assert [path.name for path in kept] == ["0000000003-000003"]
    ballast.unlink()
    writer.enqueue(snapshot(6))
    assert writer.close(LIMIT)
    found = store.latest(OWNER, fingerprint())
    assert found is not None and equal(found, snapshot(6))


def test_a_malformed_owner_is_a_failure_too(tmp_path: Path) -> None:
    writer = SnapshotWriter(SnapshotStore(str(tmp_path)))
    writer.enqueue(snapshot(1, Owner("../up", 0, 1)))
    assert not writer.close(LIMIT)
    assert "job is '../up'" in writer.failures[0].reason


def test_a_job_that_is_over_is_forgotten(tmp_path: Path) -> None:
    gate = Gate(str(tmp_path))
    writer = SnapshotWriter(gate)
    other = Owner("other", 0, 1)
    writer.enqueue(snapshot(1, other))
    assert gate.begun.acquire(timeout=LIMIT)
    writer.enqueue(snapshot(2))
    writer.drop(OWNER.job)
    assert writer.flush(LIMIT, [OWNER])  # although the store is still at work for another
    gate.open.release()
    assert writer.close(LIMIT)
    assert gate.steps == [(0, 1)]


def test_a_store_that_hangs_does_not_keep_the_engine_from_stopping(tmp_path: Path) -> None:
    gate = Gate(str(tmp_path))
    writer = SnapshotWriter(gate)
    writer.enqueue(snapshot(1))
    assert gate.begun.acquire(timeout=LIMIT)
    writer.enqueue(snapshot(2))
    assert not writer.flush(0.01)
    assert not writer.close(0.01)
    writer.enqueue(snapshot(3))
    gate.open.release()
    writer.flush(LIMIT)
    assert gate.steps == [(2, 1)]  # the one under way was finished, the others were not begun


def test_a_closed_writer_takes_no_more(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path))
    writer = SnapshotWriter(store)
    assert writer.close(LIMIT)
    writer.enqueue(snapshot(1))
    assert writer.close(LIMIT)
    assert store.latest(OWNER) is None


def test_a_store_that_vanishes_is_made_again(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path / "store"))
    writer = SnapshotWriter(store)
    writer.enqueue(snapshot(1))
    assert writer.flush(LIMIT)
    shutil.rmtree(tmp_path / "store" / "snapshots")
    writer.enqueue(snapshot(2))
    assert writer.close(LIMIT)
    found = store.latest(OWNER)
    assert found is not None and found.step == 2
