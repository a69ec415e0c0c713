"""A model's files are what the list of hashes beside them says, or the first that is not is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from zoetrope.model.inspection import hashes
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.sums import SUMS, verify


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files, one of them large enough for its hash to be kept, and the list of both."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "KEPT_BYTES", 8)
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    files = {"config.json": b"{}", "vae/weights.safetensors": b"0123456789"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    lines = (f"{hashlib.sha256(data).hexdigest()}  ./{name}\n" for name, data in files.items())
    (folder / SUMS).write_text("".join(lines))
    return folder


def test_all_files_are_checked_and_their_hashes_kept(model: Path) -> None:
    assert verify(model) == 2
    assert len([path for path in hashes.hashes_folder().iterdir() if path.name != "lock"]) == 1


@pytest.mark.parametrize("name", ["config.json", "vae/weights.safetensors"])
def test_another_file_is_named(model: Path, name: str) -> None:
    (model / name).write_bytes(b"something else")
    with pytest.raises(
        ModelError, match=rf"{name}: its SHA-256 is [0-9a-f]{{64}}, not [0-9a-f]{{64}} as SHA256SUMS says"
    ):
        verify(model)


def test_a_missing_file_is_named(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: cannot be read: No such file"):
        verify(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SHA256SUMS: names no file"),
        ("abc  config.json", "SHA256SUMS: line 1 must be a SHA-256, two spaces and a file of this folder"),
        (f"{'0' * 64}  ../other", "line 1 must be a SHA-256"),
        (f"{'0' * 64}  /etc/hostname", "line 1 must be a SHA-256"),
    ],
)
def test_a_list_that_is_none_is_refused(model: Path, text: str, message: str) -> None:
    (model / SUMS).write_text(text)
    with pytest.raises(ModelError, match=message):
        verify(model)


def test_a_home_folder_is_found(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    assert verify(Path("~") / model.name) == verify(model)


@pytest.mark.parametrize("text", ["a\0b", "x" * 300], ids=ascii)
def test_a_folder_that_cannot_be_is_told(text: str) -> None:
    with pytest.raises(ModelError, match=r"^folder: .*(control character|has 300 bytes)"):
        verify(Path(text))


def test_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="SHA256SUMS: the file is missing: who has the right files makes it"):
        verify(tmp_path)
