"""`--offload` as a user gives it: the same clip whatever is streamed."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from zoetrope.serving.cli import main


def test_a_clip_of_a_streamed_model_is_that_of_a_resident_one(tmp_path: Path) -> None:
    found = []
    for offload in ("never", "always"):
        latents = tmp_path / f"{offload}.safetensors"
        arguments = ["a red circle", "--local", "--steps", "2", "--seed", "3", "--offload", offload]
        out = ["--out", str(tmp_path / f"{offload}.mp4"), "--latents-out", str(latents)]
        assert main(["generate", *arguments, *out]) == 0
        found.append(load_file(latents))
    assert found[0].keys() == found[1].keys()
    assert all((found[0][name] == found[1][name]).all() for name in found[0])


def test_another_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a", "--local", "--offload", "maybe"]) == 2
    assert capsys.readouterr().err == "error: offload: 'maybe' must be auto, never or always\n"
