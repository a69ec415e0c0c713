"""The artifact store on a real directory."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.artifacts import ArtifactError, ArtifactExists, ArtifactMissing, ArtifactStore
from serving.jobs.job import Artifact

KEY = "jobs/a/1/video.mp4"


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
def test_a_file_comes_back_as_it_was(store: ArtifactStore, tmp_path: Path, size: int) -> None:
    content = (b"0123456789" * (size // 10 + 1))[:size]
    artifact = store.put_file(KEY, written(tmp_path, content), "video/mp4")
    assert artifact == Artifact(KEY, size, hashlib.sha256(content).hexdigest(), "video/mp4")
    chunks = list(store.read(KEY))
    assert b"".join(chunks) == content
    assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)
    assert files(tmp_path) == ["jobs", "jobs/a", "jobs/a/1", KEY]
    assert ArtifactStore(tmp_path / "data" / "artifacts").exists(KEY)


@given(content=st.binary(max_size=50), chunk_bytes=st.integers(1, 60), data=st.data())
@settings(max_examples=50, deadline=None)
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
    store: ArtifactStore, tmp_path: Path, offset: int, chunk_bytes: int
) -> None:
    store.put_file(KEY, written(tmp_path, b"abc"), "x/y")
    with pytest.raises(ValueError):
        store.read(KEY, offset, chunk_bytes)


def test_a_key_is_written_once(store: ArtifactStore, tmp_path: Path) -> None:
    first = store.put_file(KEY, written(tmp_path, b"first"), "x/y")
    assert store.put_file(KEY, written(tmp_path, b"first"), "x/y") == first
    with pytest.raises(ArtifactExists, match=KEY):
        store.put_file(KEY, written(tmp_path, b"second"), "x/y")
    assert b"".join(store.read(KEY)) == b"first"
    assert files(tmp_path) == ["jobs", "jobs/a", "jobs/a/1", KEY]


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


def test_what_is_missing_is_named(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match=KEY):
        store.read(KEY)
    assert not store.exists(KEY)
    assert not store.exists("jobs/a")
    with pytest.raises(ArtifactError, match=r"cannot read .*nothing: No such file") as caught:
        store.put_file(KEY, tmp_path / "nothing", "x/y")
    assert not isinstance(caught.value, ArtifactMissing)
    assert files(tmp_path) == []


def test_a_file_deleted_while_it_is_read_ends_the_reading_with_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    store.put_file(KEY, written(tmp_path, b"abcdef"), "x/y")
    chunks = store.read(KEY, 0, 3)
    assert next(chunks) == b"abc"
    store.delete([KEY])
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
