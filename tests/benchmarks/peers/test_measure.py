"""Peers are run as processes of their own; what is missing, fails or hangs is said, and the others go on."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from zoetrope.benchmarks.peers import registry, run
from zoetrope.benchmarks.peers.__main__ import main
from zoetrope.benchmarks.peers.measure import PeerFailed, version_of
from zoetrope.benchmarks.peers.measure import run as run_peer
from zoetrope.benchmarks.peers.peer import NotRun, Peer, PeerWork
from zoetrope.benchmarks.peers.report import page

WORK = PeerWork("model", "", "", "a cat", "", 32, 16, 5, 12, 4.0, 3.0, 7)
SECONDS = 0.03  # of the processor, for a step of the fake peer
SCRIPT = """
import sys, time
import numpy as np
until = time.process_time() + float(sys.argv[2]) * float(sys.argv[3])
while time.process_time() < until:
    pass
np.save(sys.argv[1], np.full((5, 16, 32, 3), int(sys.argv[4]), np.uint8))
"""


def fake(name: str, seconds: float = SECONDS, value: int = 100) -> Peer:
    """A peer that computes for so many seconds a step, and makes frames of one value."""

    def command(work: PeerWork, python: str, folder: Path) -> list[str]:
        return [python, "-c", SCRIPT, str(folder / "clip.npy"), str(work.steps), str(seconds), str(value)]

    return Peer(name, "numpy", command, "run here")


def broken(code: str) -> Peer:
    return Peer("broken", "numpy", lambda _work, python, folder: [python, "-c", code, str(folder)], "run here")


def test_a_run() -> None:
    found = run_peer(fake("one"), sys.executable, WORK, threads=1, timeout=60)
    assert found.frames.shape == (5, 16, 32, 3) and found.frames.max() == 100
    assert found.processor > 12 * SECONDS and found.wall > 0
    assert found.command.startswith("python -c") and "OUT/clip.npy" in found.command


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('ready'); raise SystemExit('no GPU was found')", "no GPU was found"),
        ("pass", "it left no clip"),
        (
            "import sys, numpy; numpy.save(sys.argv[1] + '/a.npy', numpy.zeros((5, 8, 8, 3), 'uint8'))",
            "made 5 frames of 8x8 in place of 5 frames of 32x16",
        ),
    ],
)
def test_failures_are_told(code: str, said: str) -> None:
    with pytest.raises(PeerFailed, match=said):
        run_peer(broken(code), sys.executable, WORK, threads=1, timeout=60)


def test_a_peer_that_hangs_ends_with_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    began = time.monotonic()
    with pytest.raises(PeerFailed, match="took longer than 2 s"):
        run_peer(broken(code), sys.executable, WORK, threads=1, timeout=2)
    assert time.monotonic() - began < 60, "a child that lived on would hold the pipe"


def test_versions(tmp_path: Path) -> None:
    assert version_of(fake("one"), sys.executable) == np.__version__
    with pytest.raises(NotRun, match="not installed"):
        version_of(Peer("other", "no-such-package-0", fake("one").command, ""), sys.executable)
    with pytest.raises(NotRun, match="its Python cannot be run"):
        version_of(fake("one"), str(tmp_path / "absent"))


def test_peers_take_turns_and_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    peers = {
        "ours": fake("zoetrope", SECONDS, value=101),
        "diffusers": fake("diffusers", 2 * SECONDS),
        "sglang": Peer("SGLang-Diffusion", "no-such-package-0", fake("x").command, "not run here"),
        "vllm-omni": broken("raise SystemExit('it wants a GPU')"),
    }
    monkeypatch.setattr(run, "PEERS", peers)
    monkeypatch.setattr(registry, "PEERS", peers)
    assert (
        main(["--size", "32x16", "--frames", "5", "--steps", "14", "--repeats", "1", "--out", str(tmp_path / "p")]) == 0
    )
    record = json.loads((tmp_path / "p.json").read_text())
    rows = {row["name"]: row for row in record["peers"]}
    assert rows["diffusers"]["step"] == pytest.approx(2 * SECONDS, rel=0.5) and rows["diffusers"]["equal"]
    assert 1.2 < rows["zoetrope"]["speed"] < 3.5 and rows["zoetrope"]["psnr"] == pytest.approx(48.13, abs=0.01)
    assert rows["SGLang-Diffusion"]["outcome"] == "not run: not installed"
    assert rows["broken"]["outcome"] == "failed: it wants a GPU"
    text = page(record)
    assert text == (tmp_path / "p.md").read_text()
    assert "| SGLang-Diffusion |  | not run: not installed | | | |" in text and "| equal |" in text
    assert str(tmp_path.parent) not in text.replace(str(tmp_path / "p"), ""), "no path of this machine"


@pytest.mark.long
def test_our_clip_is_that_of_diffusers(tmp_path: Path) -> None:
    arguments = ["--size", "64x64", "--frames", "5", "--steps", "6", "--repeats", "1", "--out", str(tmp_path / "p")]
    assert main(arguments) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "p.json").read_text())["peers"]}
    assert rows["zoetrope"]["psnr"] > 60, "the same noise and the same steps"
    assert "MODEL" in rows["zoetrope"]["command"] and "tmp" not in rows["diffusers"]["command"]
