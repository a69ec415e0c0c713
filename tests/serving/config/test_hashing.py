"""What a start says while it hashes weights that were never hashed here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.inspection import hashes
from zoetrope.model.inspection.hashes import KEPT_BYTES
from zoetrope.serving.config import hashing
from zoetrope.serving.config.hashing import hash_at_start


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with a large file, which no process has seen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "_memory", {})
    monkeypatch.setattr(hashing, "TOLD_SECONDS", 0.0)
    write_t2v(tmp_path / "wan")
    (tmp_path / "wan" / "tokenizer" / "spiece.model").write_bytes(bytes(KEPT_BYTES))
    return tmp_path / "wan"


def test_progress_is_told_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hash_at_start(find_model(str(folder)))
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("hashing the files of wan, once: 0.0 of 0.0 GB") for line in lines)
    hash_at_start(find_model(str(folder)))
    assert capsys.readouterr().err == ""


def test_without_weights_a_gateway_still_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "vae")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan", "z_dim": 16}))
    hash_at_start(find_model(str(folder)))
    line = capsys.readouterr().err
    assert line.startswith("warning: wan: repeated requests are not told apart by its weights: ")
    assert "the file is missing" in line and line.count("\n") == 1
