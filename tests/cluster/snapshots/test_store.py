"""Snapshots in a directory and in memory: the newest good one is found, old ones go, leases are respected."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cluster.snapshots.samples import OWNER, STEPS, equal, fingerprint, snapshot
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.snapshots.objects import SnapshotError, SnapshotObjects
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.model.denoising.resume import SegmentState

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(str(tmp_path))


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def found_step(store: SnapshotStore, owner: Owner = OWNER) -> int | None:
    found = store.latest(owner, fingerprint())
    assert (found is None) == (store.latest_bytes(owner, fingerprint()) is None)
    return None if found is None else found.step


@pytest.mark.parametrize("kind", ["path", "file", "memory"])
def test_what_is_put_is_found(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "a b" / "snapshots"
    store = SnapshotStore({"path": str(place), "file": place.as_uri(), "memory": "memory://"}[kind])
    assert store.latest(OWNER) is None
    assert store.put(snapshot(4)) == "snapshots/vid_job-1/0002/0000000003-000004"
    found = store.latest(OWNER, fingerprint())
    assert found is not None and equal(found, snapshot(4))
    if kind != "memory":
        assert files(place) == ["snapshots/vid_job-1/0002/0000000003-000004"]


def test_the_two_newest_of_each_segment_stay(store: SnapshotStore, tmp_path: Path) -> None:
    other = replace(OWNER, index=0)
    store.put(snapshot(1, other))
    for step in (1, 2, 4, 9, 11):
        store.put(snapshot(step))
    store.put(snapshot(9))  # again, after a resume
    assert [name.rpartition("/")[2] for name in files(tmp_path)] == [
        "0000000003-000001",
        "0000000003-000009",
        "0000000003-000011",
    ]
    assert (found_step(store), found_step(store, other)) == (11, 1)


def test_the_result_of_a_segment_is_kept_for_the_chain(store: SnapshotStore) -> None:
    for step in (4, STEPS):
        store.put(snapshot(step))
    found = store.latest(replace(OWNER, epoch=9), fingerprint())
    assert found is not None and found.finished


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_one_is_passed_over_and_deleted(
    damage: str, store: SnapshotStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(snapshot(3))
    newest = tmp_path / store.put(snapshot(6))
    if damage == "flip":
        flip(newest)
    else:
        newest.write_bytes(newest.read_bytes()[:-1] if damage == "truncate" else b"")
    with caplog.at_level(logging.WARNING, logger="zoetrope.snapshots"):
        found = store.latest(OWNER, fingerprint())
    assert found is not None and equal(found, snapshot(3))
    assert "0000000003-000006 is passed over, the one before it is tried: DamagedSnapshot: " in caplog.text
    assert store.passed_over == 1
    assert not newest.exists()
    store.put(snapshot(4))  # going on from there, it has two good ones again
    flip(tmp_path / store.put(snapshot(5)))
    assert found_step(store) == 4


def test_without_a_good_one_there_is_none(store: SnapshotStore, tmp_path: Path) -> None:
    for step in (3, 6):
        flip(tmp_path / store.put(snapshot(step)))
    assert store.latest(OWNER, fingerprint()) is None


def test_one_of_another_run_is_passed_over(
    store: SnapshotStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes where what comes next would stand behind it, and stays where another release may want it."""
    store.put(snapshot(3))
    store.put(snapshot(6, seed=8))
    heir = replace(OWNER, epoch=4)
    assert found_step(store, heir) == 3
    assert "passed over, the one before it is tried: BadSnapshot: seed is 8, expected 7" in caplog.text
    assert len(files(tmp_path)) == 2
    assert found_step(store) == 3
    assert files(tmp_path) == ["snapshots/vid_job-1/0002/0000000003-000003"]


def test_one_that_the_segment_cannot_go_on_from_is_passed_over(store: SnapshotStore) -> None:
    def check(state: SegmentState) -> None:
        if state.step > 3:
            raise ValueError("too far")

    for step in (3, 6):
        store.put(snapshot(step))
    found = store.latest(OWNER, fingerprint(), check)
    assert found is not None and found.step == 3
    assert store.passed_over == 1


class BadSectors(SnapshotStore):
    """On a disk that cannot read what was written after step 6."""

    def _read(self, key: str) -> bytes:
        if key.endswith("000006"):
            raise SnapshotError(f"snapshot {key}: Input/output error")
        return super()._read(key)


def test_one_that_cannot_be_read_is_passed_over_and_stays(tmp_path: Path) -> None:
    store = BadSectors(str(tmp_path))
    for step in (3, 6):
        store.put(snapshot(step))
    assert found_step(store) == 3
    assert len(files(tmp_path)) == 2


def test_one_that_says_another_step_than_its_name_is_passed_over(store: SnapshotStore, tmp_path: Path) -> None:
    store.put(snapshot(3))
    later = tmp_path / store.put(snapshot(6))
    later.rename(later.with_name("0000000003-000007"))
    assert found_step(store) == 3


def test_a_file_in_another_ones_place_is_passed_over(store: SnapshotStore, tmp_path: Path) -> None:
    store.put(snapshot(3))
    other = tmp_path / store.put(snapshot(6, replace(OWNER, index=1)))
    other.rename(tmp_path / "snapshots" / OWNER.job / "0002" / "0000000003-000006")
    assert found_step(store) == 3


def test_later_leases_are_not_read_and_not_touched(store: SnapshotStore) -> None:
    early, late = replace(OWNER, epoch=2), replace(OWNER, epoch=10)
    store.put(snapshot(8, early))
    for step in (1, 2):
        store.put(snapshot(step, late))
    assert found_step(store, early) is None  # the holder of the lease made room for its own
    for step in (9, 10, 11):  # a holder that does not know yet that it lost its lease
        store.put(snapshot(step, early))
    assert found_step(store, early) == 11
    assert found_step(store, late) == 2  # the lease counts before the step
    assert found_step(store, replace(OWNER, epoch=5)) == 11
    store.put(snapshot(3, late))
    assert found_step(store, replace(OWNER, epoch=9)) is None
    assert found_step(store, replace(OWNER, epoch=11)) == 3


def test_a_job_is_discarded_with_what_killed_writers_left(store: SnapshotStore, tmp_path: Path) -> None:
    kept = store.put(snapshot(1, Owner("vid_job-10", 0, 1)))
    unfinished = tmp_path / (store.put(snapshot(1)) + "#1")
    unfinished.write_bytes(b"half")
    store.put(snapshot(1, Owner(OWNER.job, 0, 99)))
    store.discard(OWNER.job)
    store.discard(OWNER.job)
    assert files(tmp_path) == [kept]


def test_what_killed_writers_left_of_a_segment_goes_with_the_next(store: SnapshotStore, tmp_path: Path) -> None:
    first = tmp_path / store.put(snapshot(1))
    other = tmp_path / store.put(snapshot(1, replace(OWNER, index=3)))
    for place in (first, other):
        place.with_name("0000000003-000002#1").write_bytes(b"half")
    store.put(snapshot(3))
    assert [name.rpartition("snapshots/vid_job-1/")[2] for name in files(tmp_path)] == [
        "0002/0000000003-000001",
        "0002/0000000003-000003",
        "0003/0000000003-000001",
        "0003/0000000003-000002#1",
    ]


def test_what_nobody_discarded_goes_with_time(store: SnapshotStore, tmp_path: Path) -> None:
    store.put(snapshot(1))
    now = datetime.now(UTC)
    assert store.discard_older(now - timedelta(hours=1)) == 0
    assert store.discard_older(now + timedelta(hours=1)) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize("job", ["", "../x", "a/b", "-a", ".", "a" * 129, "ä"])
def test_a_malformed_job_is_refused(job: str, store: SnapshotStore, tmp_path: Path) -> None:
    owner = Owner(job, 0, 1)
    for call in (lambda: store.put(snapshot(1, owner)), lambda: store.latest(owner), lambda: store.discard(job)):
        with pytest.raises(ValueError, match="job is "):
            call()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (Owner("a", -1, 1), "segment index is -1: it must be within 0 to 9999"),
        (Owner("a", 0, -1), "lease epoch is -1"),
        (Owner("a", 0, 10**10), "lease epoch is 10000000000: it must be within 0 to 9999999999"),
    ],
)
def test_numbers_out_of_range_are_refused(owner: Owner, message: str, store: SnapshotStore) -> None:
    with pytest.raises(ValueError, match=message):
        store.put(snapshot(1, owner))


def test_a_store_that_cannot_be_opened_or_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (str(tmp_path / "file" / "below"), "nowhere://x"):
        with pytest.raises(SnapshotError, match="cannot open the snapshots at") as caught:
            SnapshotStore(url)
        assert "\n" not in str(caught.value)
    store = SnapshotStore(str(tmp_path / "store"))
    (tmp_path / "store" / "snapshots").write_text("in the way")
    with pytest.raises(SnapshotError, match=r"snapshot snapshots/vid_job-1/0002/0000000003-000001: ") as caught:
        store.put(snapshot(1))
    assert "\n" not in str(caught.value)


def test_a_reader_beside_a_writer_always_finds_one(tmp_path: Path) -> None:
    """What it has listed may be gone when it reads; then there is something newer."""
    written = [replace(snapshot(1), state=replace(s.state, sampler=replace(s.state.sampler, step=step)))
               for s in [snapshot(1, steps=999)] for step in range(1, 150)]  # fmt: skip
    writer, reader = SnapshotStore(str(tmp_path)), SnapshotStore(str(tmp_path))
    writer.put(written[0])
    thread = threading.Thread(target=lambda: [writer.put(one) for one in written[1:]])
    thread.start()
    steps = []
    while thread.is_alive():
        found = reader.latest(OWNER)
        assert found is not None
        steps.append(found.step)
    thread.join()
    assert steps == sorted(steps) and len(steps) > 1


WRITE_UNTIL_KILLED = """
import sys
from dataclasses import replace
import torch
from zoetrope.cluster.snapshots.store import SnapshotStore
from tests.cluster.snapshots.samples import snapshot

store, small = SnapshotStore(sys.argv[1]), snapshot(1, steps=100_000)
for step in range(1, 100_000):
    sampler = replace(small.state.sampler, step=step)
    tensors = {name: torch.full((2_000_000,), float(step)) for name in small.state.tensors()}
    store.put(replace(small, state=replace(small.state, sampler=sampler).with_tensors(tensors)))
    print(step, flush=True)
"""


@pytest.mark.integration
def test_a_writer_killed_in_the_middle_leaves_whole_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        said = max([said, *map(int, process.stdout)])
    assert process.returncode == -signal.SIGKILL
    store = SnapshotStore(str(tmp_path))
    found = store.latest(OWNER)
    assert found is not None and found.step >= said
    assert bool((found.state.latents == found.step).all())
    store.discard(OWNER.job)
    assert files(tmp_path) == []


def test_what_an_address_says_of_credentials_is_not_repeated() -> None:
    with pytest.raises(SnapshotError, match=r"^cannot open the snapshots at s3://\.\.\.: the URL must be") as caught:
        SnapshotObjects("s3://id:secret@bucket/snapshots")
    assert "secret" not in str(caught.value)
