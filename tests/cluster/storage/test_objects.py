"""Objects in a directory, in memory and on a server that speaks S3: the same calls, the same answers."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cluster.snapshots.samples import OWNER, equal, fingerprint, snapshot
from tests.fixtures.bucket import Bucket, open_bucket
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.cluster.storage.directory import DirectoryObjects
from zoetrope.cluster.storage.open import Objects, error_line, open_objects

KEY = "folder/a/1"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        yield opened


@pytest.fixture(params=["directory", "memory", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "bucket":
        server: Bucket = request.getfixturevalue("bucket")
        return open_objects(server.url(tmp_path.name))
    return open_objects({"directory": str(tmp_path / "root"), "memory": "memory://"}[request.param])


def keys(objects: Objects, folder: str) -> list[str]:
    return sorted(objects.list_keys(folder))


def test_create_needs_a_free_key_and_put_does_not(objects: Objects) -> None:
    objects.create(KEY, [b"ab", b"c"], "x/y", "name")
    with pytest.raises(FileExistsError):
        objects.create(KEY, [b"other"], "x/y", "name")
    assert (objects.read(KEY), objects.size(KEY), objects.read_range(KEY, 1, 3)) == (b"abc", 3, b"bc")
    objects.put(KEY, [b"longer", memoryview(b" text")])
    assert objects.read(KEY) == b"longer text"


def test_keys_are_listed_by_folder_with_their_times(objects: Objects) -> None:
    for key in (KEY, "folder/a/2", "folder/ab/1", "other/1"):
        objects.put(key, [b"x"])
    assert keys(objects, "folder/a") == [KEY, "folder/a/2"]
    assert keys(objects, "folder") == [KEY, "folder/a/2", "folder/ab/1"]
    assert keys(objects, "none") == keys(objects, "other/1") == []
    now = datetime.now(UTC)
    assert objects.list_keys("folder", now - timedelta(minutes=5)) == []
    assert sorted(objects.list_keys("folder", now + timedelta(minutes=5))) == keys(objects, "folder")


def test_what_is_missing_is_a_missing_file(objects: Objects) -> None:
    for call in (objects.read, objects.size, lambda key: objects.read_range(key, 0, 1)):
        with pytest.raises(FileNotFoundError):
            call(KEY)
    objects.delete(KEY)
    objects.put(KEY, [b"x"])
    objects.delete(KEY)
    assert keys(objects, "folder") == []


def test_a_source_that_breaks_off_changes_nothing(objects: Objects) -> None:
    def broken(error: Exception) -> Iterator[bytes]:
        yield b"half"
        raise error

    objects.put(KEY, [b"whole"])
    with pytest.raises(RuntimeError, match="no more"):
        objects.put(KEY, broken(RuntimeError("no more")))
    with pytest.raises(RuntimeError, match="no more"):
        objects.create("folder/b", broken(RuntimeError("no more")), "x/y", None)
    assert objects.read(KEY) == b"whole" and keys(objects, "folder") == [KEY]


def test_a_health_check_leaves_nothing(objects: Objects) -> None:
    objects.check()
    assert keys(objects, "parts") == []


def test_snapshots_lie_in_a_bucket_as_well(bucket: Bucket, tmp_path: Path) -> None:
    store = SnapshotStore(bucket.url(tmp_path.name))
    for step in (3, 4, 6):
        store.put(snapshot(step))
    found = store.latest(OWNER, fingerprint())
    assert found is not None and equal(found, snapshot(6))
    assert len(bucket.keys(tmp_path.name)) == 2 and store.jobs() == {OWNER.job}
    store.discard(OWNER.job)
    assert bucket.keys(tmp_path.name) == []


# The directory


def test_what_put_has_not_finished_is_no_key_and_can_be_discarded(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    seen: list[list[str]] = []

    def watched() -> Iterator[bytes]:
        yield b"half"
        seen.append(keys(objects, "folder"))
        objects.discard_unfinished("folder")  # somebody takes the writer for dead

    with pytest.raises(FileNotFoundError):
        objects.put(KEY, watched())
    assert seen == [[]] and not list(tmp_path.iterdir())


def test_empty_directories_of_killed_writers_go_too(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.put(KEY, [b"x"])
    (tmp_path / "folder" / "b" / "c").mkdir(parents=True)
    objects.discard_unfinished("folder")
    assert keys(objects, "folder") == [KEY] and not (tmp_path / "folder" / "b").exists()


def test_a_directory_that_is_not_mounted_has_lost_nothing(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "root")
    shutil.rmtree(tmp_path / "root")
    with pytest.raises(OSError) as caught:
        objects.read(KEY)
    assert (caught.value.errno, error_line(caught.value)) == (errno.ENODEV, "its directory is not there")


@pytest.mark.parametrize("url", ["file://host/path", "file:///path?query", "nowhere://x", "s3://b?endpoint=host:9000"])
def test_an_unknown_place_is_refused(url: str) -> None:
    with pytest.raises(Exception) as caught:
        open_objects(url)
    assert "\n" not in error_line(caught.value)
