"""The artifact store on a real directory, and on a server that speaks S3."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.fixtures.bucket import Bucket, open_bucket
from zoetrope.cluster.storage.bucket import BucketObjects
from zoetrope.cluster.storage.directory import DirectoryObjects
from zoetrope.serving.jobs.job import Artifact
from zoetrope.serving.storage.store import (
    ArtifactError,
    ArtifactExists,
    ArtifactMissing,
    ArtifactStore,
    ArtifactUnavailable,
    open_artifacts,
)

KEY = "jobs/a/1/video.mp4"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        yield opened


@pytest.fixture(params=["directory", "bucket", "bucket without conditional puts"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "directory":
        return ArtifactStore(tmp_path / "data" / "artifacts")
    bucket: Bucket = request.getfixturevalue("bucket")
    options = "" if request.param == "bucket" else "&conditional_put=disabled"
    return open_artifacts(bucket.url(tmp_path.name, options))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data" / "artifacts")


def files(tmp_path: Path) -> list[str]:
    root = tmp_path / "data" / "artifacts"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 12_345_678])
def test_a_file_comes_back_as_it_was(any_store: ArtifactStore, tmp_path: Path, size: int) -> None:
    content = (b"0123456789" * (size // 10 + 1))[:size]
    artifact = any_store.put_file(KEY, written(tmp_path, content), "video/mp4")
    assert artifact == Artifact(KEY, size, hashlib.sha256(content).hexdigest(), "video/mp4")
    chunks = list(any_store.read(KEY))
    assert b"".join(chunks) == content
    assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)
    assert any_store.size(KEY) == size and any_store.exists(KEY)


def test_a_directory_holds_nothing_but_the_file(store: ArtifactStore, tmp_path: Path) -> None:
    store.put_file(KEY, written(tmp_path, b"1"), "video/mp4")
    assert files(tmp_path) == ["jobs", "jobs/a", "jobs/a/1", KEY]
    assert ArtifactStore(tmp_path / "data" / "artifacts").exists(KEY)


@given(content=st.binary(max_size=50), chunk_bytes=st.integers(1, 60), data=st.data())
@settings(max_examples=draws(50), deadline=None)
def test_reading_starts_anywhere(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, chunk_bytes: int, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("artifacts")
    store = ArtifactStore(directory)
    store.put_file(KEY, written(directory, content), "x/y")
    offset = data.draw(st.integers(0, len(content)))
    chunks = list(store.read(KEY, offset, chunk_bytes))
    assert b"".join(chunks) == content[offset:]
    assert all(len(chunk) == chunk_bytes for chunk in chunks[:-1])


@pytest.mark.parametrize("offset, chunk_bytes", [(-1, 1), (4, 1), (0, 0)])
def test_a_range_outside_the_file_is_refused_at_once(
    any_store: ArtifactStore, tmp_path: Path, offset: int, chunk_bytes: int
) -> None:
    any_store.put_file(KEY, written(tmp_path, b"abc"), "x/y")
    with pytest.raises(ValueError):
        any_store.read(KEY, offset, chunk_bytes)


def test_a_key_is_written_once(any_store: ArtifactStore, tmp_path: Path) -> None:
    first = any_store.put_file(KEY, written(tmp_path, b"first"), "x/y")
    assert any_store.put_file(KEY, written(tmp_path, b"first"), "x/y") == first
    assert any_store.put_bytes(KEY, b"first", "x/y") == first
    with pytest.raises(ArtifactExists, match=KEY):
        any_store.put_file(KEY, written(tmp_path, b"second"), "x/y")
    with pytest.raises(ArtifactExists, match=KEY):
        any_store.put_bytes(KEY, b"f", "x/y")
    assert b"".join(any_store.read(KEY)) == b"first"


def test_one_of_many_writers_wins(store: ArtifactStore, tmp_path: Path) -> None:
    paths = [written(tmp_path, bytes([number]) * 100_000) for number in range(8)]

    def put(path: Path) -> str | None:
        try:
            return store.put_file(KEY, path, "x/y").sha256
        except ArtifactExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [digest for digest in pool.map(put, paths) if digest]
    assert winners == [hashlib.sha256(b"".join(store.read(KEY))).hexdigest()]


def test_what_is_missing_is_named(any_store: ArtifactStore, tmp_path: Path) -> None:
    for call in (any_store.read, any_store.size, lambda key: any_store.copy_to(key, tmp_path / "copy")):
        with pytest.raises(ArtifactMissing, match=KEY):
            call(KEY)
    assert not any_store.exists(KEY)
    assert not any_store.exists("jobs/a")
    assert not (tmp_path / "copy").exists()
    any_store.delete([KEY])


def test_a_source_that_cannot_be_read_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*nothing: No such file") as caught:
        store.put_file(KEY, tmp_path / "nothing", "x/y")
    assert not isinstance(caught.value, ArtifactMissing)
    assert files(tmp_path) == []


def test_a_file_deleted_while_it_is_read_ends_the_reading(any_store: ArtifactStore, tmp_path: Path) -> None:
    any_store.put_file(KEY, written(tmp_path, b"abcdef"), "x/y")
    chunks = any_store.read(KEY, 0, 3)
    assert next(chunks) == b"abc"
    any_store.delete([KEY])
    with pytest.raises(ArtifactMissing):
        next(chunks)


def test_delete_removes_emptied_directories_and_ignores_the_unknown(store: ArtifactStore, tmp_path: Path) -> None:
    other = "jobs/a/2/video.mp4"
    store.put_file(KEY, written(tmp_path, b"1"), "x/y")
    store.put_file(other, written(tmp_path, b"2"), "x/y")
    store.delete([KEY, "jobs/b/1/video.mp4"])
    assert files(tmp_path) == ["jobs", "jobs/a", "jobs/a/2", other]
    store.delete([other])
    assert files(tmp_path) == []
    store.put_file(KEY, written(tmp_path, b"again"), "x/y")
    assert b"".join(store.read(KEY)) == b"again"


@pytest.mark.parametrize(
    "key",
    ["", "video.mp4", "../secret", "jobs/../../secret", "/etc/passwd", "jobs//a", "jobs/a/", "jobs/a#1", "jobs/.a"],
)
def test_a_malformed_key_is_refused(store: ArtifactStore, tmp_path: Path, key: str) -> None:
    path = written(tmp_path, b"1")
    for call in (
        lambda: store.put_file(key, path, "x/y"),
        lambda: store.read(key),
        lambda: store.exists(key),
        lambda: store.delete([key]),
    ):
        with pytest.raises(ArtifactError, match="not an artifact key"):
            call()


def test_what_killed_writers_left_is_removed(store: ArtifactStore, tmp_path: Path) -> None:
    store.put_file(KEY, written(tmp_path, b"1"), "x/y")
    left = tmp_path / "data" / "artifacts" / "parts" / "0123#1"
    left.parent.mkdir()
    left.write_bytes(b"half")
    store.discard_parts()
    store.discard_parts()
    assert files(tmp_path) == ["jobs", "jobs/a", "jobs/a/1", KEY]


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="file"):
        ArtifactStore(tmp_path / "file")


def test_a_file_where_a_directory_should_be_is_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    store.put_bytes("jobs/a", b"1", "x/y")
    with pytest.raises(ArtifactUnavailable, match="a is a file"):
        store.put_bytes("jobs/a/1", b"2", "x/y")
    assert not store.exists("jobs/a/1")
    store.delete(["jobs/a/1"])
    assert files(tmp_path) == ["jobs", "jobs/a"]


def test_a_copy_is_the_file(any_store: ArtifactStore, tmp_path: Path) -> None:
    any_store.put_bytes(KEY, b"abcde", "image/png")
    any_store.copy_to(KEY, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"abcde"
    with pytest.raises(FileExistsError):
        any_store.copy_to(KEY, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"abcde"


@pytest.mark.parametrize("single_put_bytes", [1 << 20, 8 << 20])
def test_a_source_that_breaks_off_stores_nothing(bucket: Bucket, tmp_path: Path, single_put_bytes: int) -> None:
    objects = BucketObjects(bucket.url(tmp_path.name), single_put_bytes)

    def broken() -> Iterator[bytes]:
        yield b"a" * 3_000_000
        raise ArtifactMissing("deleted meanwhile")

    with pytest.raises(ArtifactError):
        objects.create(KEY, broken(), "x/y", None)
    assert not ArtifactStore(objects).exists(KEY)


def test_health_leaves_nothing_behind(any_store: ArtifactStore, tmp_path: Path, bucket: Bucket) -> None:
    any_store.healthy()
    assert files(tmp_path) == [] and bucket.keys(tmp_path.name) == []


# The bucket


def test_a_signed_address_gives_the_file_with_its_type_and_name(bucket: Bucket, tmp_path: Path) -> None:
    store = open_artifacts(bucket.url(tmp_path.name))
    store.put_bytes(KEY, b"0123456789", "video/mp4")
    store.put_bytes("jobs/a/1/other", b"x", "image/png", filename="a cat.png")
    url = store.sign(KEY, 60)
    assert url is not None and "secret" not in url
    answer = httpx.get(url)
    assert (answer.content, answer.headers["content-type"]) == (b"0123456789", "video/mp4")
    assert answer.headers["content-disposition"] == 'inline; filename="video.mp4"'
    assert httpx.get(url, headers={"range": "bytes=2-4"}).content == b"234"
    other = store.sign("jobs/a/1/other", 60)
    assert other is not None
    assert httpx.get(other).headers["content-disposition"] == 'inline; filename="a cat.png"'
    assert store.local_path(KEY) is None


def test_a_large_file_goes_up_in_parts_and_keeps_its_type(bucket: Bucket, tmp_path: Path) -> None:
    store = ArtifactStore(BucketObjects(bucket.url(tmp_path.name), single_put_bytes=6 << 20))
    content = os.urandom(1 << 20) * 9
    artifact = store.put_file(KEY, written(tmp_path, content), "video/mp4")
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    head = httpx.head(f"{bucket.endpoint}/bucket/{tmp_path.name}/{KEY}").headers
    assert head["content-type"] == "video/mp4" and head["etag"].rstrip('"').rpartition("-")[2].isdecimal()
    assert b"".join(store.read(KEY, 8 << 20)) == content[8 << 20 :]
    with pytest.raises(ArtifactExists):
        store.put_bytes(KEY, content + b"1", "video/mp4")
    assert store.put_bytes(KEY, content, "video/mp4") == artifact


def test_one_of_two_writers_of_a_key_in_a_bucket_wins(bucket: Bucket, tmp_path: Path) -> None:
    store = open_artifacts(bucket.url(tmp_path.name))

    def put(number: int) -> str | None:
        try:
            return store.put_bytes(KEY, bytes([number]) * 100_000, "x/y").sha256
        except ArtifactExists:
            return None

    with ThreadPoolExecutor(4) as pool:
        winners = [digest for digest in pool.map(put, range(4)) if digest]
    assert winners == [hashlib.sha256(b"".join(store.read(KEY))).hexdigest()]


def test_a_store_that_is_away_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = open_artifacts("s3://bucket/x?endpoint=http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ArtifactUnavailable):
        store.healthy()


def test_a_bucket_that_does_not_exist_is_unavailable_or_missing(bucket: Bucket) -> None:
    with pytest.raises(ArtifactUnavailable):
        open_artifacts(f"s3://another-bucket?endpoint={bucket.endpoint}").healthy()


@pytest.mark.parametrize(
    "url, complaint",
    [
        ("", "no address"),
        ("s3://", "s3://bucket"),
        ("s3://user:tr0ub4dor@bucket/x", "AWS_"),
        ("s3://bucket/x?acl=public", "'acl' is not one of"),
        ("ftp://host/path", r"ftp://\.\.\."),
        ("file://host/path", r"file://\.\.\."),
    ],
)
def test_a_malformed_address_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(ArtifactError, match=complaint) as caught:
        open_artifacts(url)
    assert "tr0ub4dor" not in str(caught.value)


def test_addresses_of_directories(tmp_path: Path) -> None:
    open_artifacts(f"file://{tmp_path}/a%20b").put_bytes(KEY, b"1", "x/y")
    again = open_artifacts(str(tmp_path / "a b"))
    assert again.local_path(KEY) == tmp_path / "a b" / KEY
    assert again.sign(KEY, 60) is None
    with pytest.raises(ArtifactMissing):
        again.local_path("jobs/none")


# The disk


def test_a_disk_that_is_almost_full_is_unavailable(tmp_path: Path) -> None:
    store = ArtifactStore(DirectoryObjects(tmp_path, min_free_bytes=1 << 60))
    with pytest.raises(ArtifactUnavailable, match="bytes are free on its disk"):
        store.healthy()


FULL_DISK = """
import sys
from pathlib import Path
from zoetrope.serving.storage.store import ArtifactStore, ArtifactUnavailable
store = ArtifactStore(Path(sys.argv[1]))
store.put_bytes("jobs/a/1", b"x" * 50_000, "x/y")
try:
    store.put_bytes("jobs/a/2", b"x" * 500_000, "x/y")
except ArtifactUnavailable as error:
    print(error)
print(store.exists("jobs/a/1"), store.exists("jobs/a/2"), sorted(p.name for p in Path(sys.argv[1]).rglob("*")))
try:
    store.healthy()
except ArtifactUnavailable as error:
    print(error)
"""


@pytest.mark.integration
def test_a_full_disk_leaves_nothing_half(tmp_path: Path) -> None:
    """On a real small file system, mounted in a namespace of its own."""
    script = 'mount -t tmpfs -o size=200k none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK]
    probe = subprocess.run([*command[:4], "mount -t tmpfs none " + str(tmp_path)], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this kernel gives no namespaces to mount in")
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    first, second, third = done.stdout.splitlines()
    assert first == "artifact jobs/a/2: No space left on device"
    assert second == "True False ['1', 'a', 'jobs']"
    assert third.startswith("artifacts cannot be stored: ")


def test_what_is_stored_is_synced_before_it_counts(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file first, then every directory up to the root, after the name is there."""
    calls: list[str] = []
    sync, link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def linked(source: Path, target: Path) -> None:
        calls.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    store.put_bytes("jobs/a/file", b"1", "x/y")
    assert calls[1:] == ["link", "a", "jobs", "artifacts"] and len(calls[0]) == 32
