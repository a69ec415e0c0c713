"""The script of the Job that fills the volume of weights, with a stand-in for the command that downloads."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[2] / "k8s" / "components" / "fetch-weights" / "fetch.yaml"
PULLS = """#!/bin/bash
case "$1 $2" in
"pull --quiet") echo pulled >> "$CALLS"; mkdir -p "$HF_HOME/found"; echo weights > "$HF_HOME/found/model.safetensors"
  echo "$HF_HOME/found";;
"models export") cp "$3/SHA256SUMS" "$5";;
esac
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "zoetrope"
    command.write_text(PULLS)
    command.chmod(0o755)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def fetch(volume: Path) -> str:
    """Run the script as the Job does; returns what it says."""
    (job,) = [one for one in yaml.safe_load_all(FILE.read_text()) if one["kind"] == "Job"]
    *bash, script = job["spec"]["template"]["spec"]["containers"][0]["command"]
    environment = {
        "PATH": f"{volume.parent / 'bin'}:{os.environ['PATH']}",
        "MODEL": "mine",
        "SOURCE": "org/mine",
        "UPCYCLE": "",
        "HF_HOME": str(volume / ".hub"),
        "CALLS": str(volume.parent / "calls"),
    }
    done = subprocess.run(
        [*bash, script.replace("/weights", str(volume))], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_volume_is_filled_once_and_again_after_its_folder_was_deleted(volume: Path) -> None:
    """Which is what the runbook says to do with weights that do not fit their sums; the card is beside the folder."""
    assert fetch(volume) == ""
    folder, calls = volume / "mine", volume.parent / "calls"
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "model.safetensors"]
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    assert check.returncode == 0
    assert (volume / "mine.card.json").exists() and not (volume / ".hub").exists()
    assert "is complete" in fetch(volume)
    assert calls.read_text().splitlines() == ["pulled"]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert fetch(volume) == ""
    assert (folder / "SHA256SUMS").exists()
    assert calls.read_text().splitlines() == ["pulled"] * 2
