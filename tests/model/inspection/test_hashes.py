"""Hashes of whole files: once for each, kept for other processes, and never of what a file was before."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from threading import get_native_id

import pytest

from zoetrope.model.inspection import hashes
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.hashes import KEPT_BYTES, NICENESS, hashes_folder, hashes_of, read_ahead, remember


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a process that knows nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget(monkeypatch)
    return hashes_folder()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "_memory", {})


def write(path: Path, size: int, last: bytes = b"\1") -> str:
    """A file of zeros but for its last byte; its SHA-256."""
    data = bytes(size - 1) + last
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != "lock"] if folder.exists() else []


def test_small_files_are_hashed_and_not_kept(tmp_path: Path, folder: Path) -> None:
    expected = [write(tmp_path / name, 100, name.encode()) for name in "abc"]
    assert hashes_of([tmp_path / name for name in "abca"]) == [*expected, expected[0]]
    assert not folder.exists()


def test_a_large_file_is_read_once_and_told_of(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, small, told = tmp_path / "large", tmp_path / "small", []
    expected = [write(path, KEPT_BYTES), write(small, 10)]
    assert hashes_of([path, small], lambda done, total: told.append((done, total))) == expected
    assert told[-1] == (KEPT_BYTES + 10, KEPT_BYTES + 10)
    assert [entry.read_text() for entry in entries(folder)] == [expected[0] + "\n"]
    forget(monkeypatch)
    told.clear()
    monkeypatch.setattr(hashes, "_hash", lambda *_: pytest.fail("it is known"))
    assert hashes_of([path], lambda *numbers: told.append(numbers)) == expected[:1]
    assert told == []


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_threads_that_hash_let_others_go_first(tmp_path: Path) -> None:
    def niceness(*_: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, get_native_id())

    write(tmp_path / "large", KEPT_BYTES)
    own, seen = niceness(), set[int]()
    hashes_of([tmp_path / "large"], lambda *_: seen.add(niceness()))
    assert seen == {min(19, own + NICENESS)}
    assert niceness() == own


@pytest.mark.skipif(sys.platform != "linux", reason="what is read ahead is Linux' to decide")
def test_what_need_not_be_hashed_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown, gone = (tmp_path / name for name in ("known", "unknown", "gone"))
    write(known, KEPT_BYTES)
    write(unknown, KEPT_BYTES)
    hashes_of([known])
    forget(monkeypatch)  # as another process
    asked: list[tuple[int, tuple[int, ...]]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *how: asked.append((os.fstat(file).st_ino, how)))
    read_ahead([known, unknown, gone])
    assert asked == [(known.stat().st_ino, (0, 0, os.POSIX_FADV_WILLNEED))]


@pytest.mark.parametrize("how", ["written over", "replaced", "times set back"])
def test_a_file_that_has_changed_is_hashed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """One byte in the middle, with the same size: what trained another block, or two."""
    path = tmp_path / "large"
    before = write(path, KEPT_BYTES)
    assert hashes_of([path]) == [before]
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[KEPT_BYTES // 2 + 12_345] = 7
    target = path if how != "replaced" else tmp_path / "other"
    target.write_bytes(data)
    if how != "written over":
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    target.replace(path)
    assert hashes_of([path]) == [hashlib.sha256(data).hexdigest()] != [before]


def test_what_was_hashed_elsewhere_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = write(tmp_path / "large", KEPT_BYTES)
    remember(tmp_path / "large", digest)
    forget(monkeypatch)
    monkeypatch.setattr(hashes, "_hash", lambda *_: pytest.fail("it is known"))
    assert hashes_of([tmp_path / "large"]) == [digest]


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"Z" * 64], ids=str)
def test_a_damaged_entry_is_not_believed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    digest = write(tmp_path / "large", KEPT_BYTES)
    hashes_of([tmp_path / "large"])
    (entry,) = entries(folder)
    entry.write_bytes(content)
    forget(monkeypatch)
    assert hashes_of([tmp_path / "large"]) == [digest]
    assert entry.read_text() == digest + "\n"


def test_a_cache_that_cannot_be_written_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    digest = write(tmp_path / "large", KEPT_BYTES)
    assert hashes_of([tmp_path / "large"]) == [digest]
    assert "hashes of weights cannot be kept in" in caplog.text and "XDG_CACHE_HOME" in caplog.text


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="absent: cannot be read: No such file or directory"):
        hashes_of([tmp_path / "absent"])
    with pytest.raises(ModelError, match="cannot be read: embedded null byte"):
        hashes_of([Path("a\0b")])


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large"
    write(path, KEPT_BYTES)

    def change(done: int, total: int) -> None:
        with path.open("ab") as file:
            file.write(b"x")

    with pytest.raises(ModelError, match="large: has changed while it was read"):
        hashes_of([path], change)


@pytest.mark.integration
def test_processes_take_turns(tmp_path: Path, folder: Path) -> None:
    """Both ask at once; the file is read by one of them alone."""
    write(tmp_path / "large", 8 * KEPT_BYTES)
    code = (
        "import sys; from pathlib import Path; from zoetrope.model.inspection.hashes import hashes_of; told = [];"
        "print(*hashes_of([Path(sys.argv[1])], lambda *n: told.append(n)), len(told))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].split() for process in both]
    assert said[0][0] == said[1][0]
    assert sorted(int(count) > 0 for _, count in said) == [False, True]
