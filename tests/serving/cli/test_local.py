"""`zoetrope generate --local` with nano, and how progress looks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from tests.serving.gateway.harness import ROOT
from zoetrope.serving.cli import main
from zoetrope.serving.cli.progress import ProgressView, format_seconds
from zoetrope.serving.media import probe, read_metadata

SMALL = ["a red circle moving right on a white background", "--local", "--size", "320x180", "--frames", "6"]


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, as a user runs it; ``--local`` wins over a server in the environment."""
    return subprocess.run(
        [sys.executable, "-m", "zoetrope.serving.cli", "generate", *SMALL, "--steps", "4", *arguments],
        cwd=ROOT,
        env={**os.environ, "ZOETROPE_SERVER": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In another process and in this one, in two formats."""
    latents = [tmp_path / f"{index}.safetensors" for index in range(2)]
    videos = [tmp_path / "clip.mp4", tmp_path / "clip.mkv"]
    given = [["--seed", "11", "--out", str(v), "--latents-out", str(f)] for v, f in zip(videos, latents, strict=True)]
    done = generate(*given[0])
    assert done.returncode == 0, done.stderr
    assert "denoising 4/4 steps" in done.stderr
    assert main(["generate", *SMALL, "--steps", "4", *given[1]]) == 0
    for video, file, said in zip(videos, latents, (done.stdout, capsys.readouterr().out), strict=True):
        expected = f"saved {video} size=320x180 denoised_at=40x24 frames=6 fps=8 steps=4 seed=11 model=nano"
        assert said == f"{expected} latents={file}\n"
    assert latents[0].read_bytes() == latents[1].read_bytes()
    tensors = load_file(latents[0])
    assert {name: (str(x.dtype), x.ndim) for name, x in tensors.items()} == {"latents": ("float32", 4)}
    assert [(info.codec, info.width, info.height, info.frames) for info in map(probe, videos)] == [
        ("h264", 320, 180, 6),
        ("ffv1", 320, 180, 6),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in [*latents, *videos])


@pytest.mark.long
def test_weights_in_8_bits(tmp_path: Path) -> None:
    latents = []
    for options in ((), ("--quantize", "fp8")):
        file = tmp_path / f"{len(options)}.safetensors"
        done = generate("--seed", "11", "--out", str(tmp_path / "a.mp4"), "--latents-out", str(file), *options)
        assert done.returncode == 0, done.stderr
        latents.append(load_file(file)["latents"])
    change = np.linalg.norm(latents[1] - latents[0]) / np.linalg.norm(latents[0])
    assert 1e-3 < change < 0.3


@pytest.mark.parametrize("name", ["a.PNG", "a.jpeg"])
def test_one_frame_is_a_picture(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the name of the file alone, in capitals or not; with its latents beside it."""
    out, latents = tmp_path / name, tmp_path / "a.SAFETENSORS"
    command = ["generate", "a red circle moving right on a white background", "--local", "--size", "320X180"]
    assert main([*command, "--steps", "4", "--seed", "-1", "--out", str(out), "--latents-out", str(latents)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"saved {out} size=320x180 denoised_at=40x24 frames=1 fps=8 steps=4 seed=")
    seed = line.partition("seed=")[2].split()[0]
    info = probe(out)
    assert (info.kind, info.width, info.height) == ("image", 320, 180)
    assert read_metadata(out)["seed"] == seed
    assert int(seed) >= 0
    assert load_file(latents)["latents"].shape[1] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "a.SAFETENSORS"])


def test_a_video_in_capitals(tmp_path: Path) -> None:
    out = tmp_path / "A.MP4"
    command = ["generate", "a red circle", "--local", "--size", "320x180", "--frames", "2", "--steps", "1"]
    assert main([*command, "--flow-shift", "5", "--out", str(out)]) == 0
    assert (probe(out).codec, read_metadata(out)["flow_shift"]) == ("h264", "5")


def show(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with ProgressView(console) as view:
        view.message("submitting")
        view.update("queued", 0, 8, queue_position=2, eta_seconds=200)
        view.update("conditioning", 0, 8)
        for step in range(9):
            view.update("denoising", step, 8, eta_seconds=8 - step, attempt=2)
        view.update("succeeded", 8, 8)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_progress_without_a_terminal() -> None:
    """A line for each state and each quarter of the steps."""
    assert show(terminal=False).splitlines() == [
        "submitting",
        "queued 2 ahead, 3 min 20 s left",
        "reading the prompt",
        "denoising 0/8 steps, 8 s left, attempt 2",
        "denoising 2/8 steps, 6 s left, attempt 2",
        "denoising 4/8 steps, 4 s left, attempt 2",
        "denoising 6/8 steps, 2 s left, attempt 2",
        "denoising 8/8 steps, 0 s left, attempt 2",
        "done 8/8 steps",
    ]


def test_progress_in_a_terminal() -> None:
    """One bar, which is wiped away in the end."""
    shown = show(terminal=True)
    assert "done" in shown
    assert "8/8 steps" in shown
    assert shown.endswith("\x1b[1A\x1b[2K")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3_599, "59 min 59 s"), (7_500, "2 h 5 min")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
