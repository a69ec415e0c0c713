"""Files that take over the process that decodes them: as root, as a user, in containers and on old kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.serving.media.files import examine, write_clip, write_picture
from tests.serving.media.sandbox.hostile_worker import TAKES_OVER
from zoetrope.serving.cli.service import wait_gone
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.media.sandbox.worker import STANDING_BY

ROOT = Path(__file__).resolve().parents[4]
MODULE = "tests.serving.media.sandbox.hostile_worker"
CONFINED = (
    "root",
    "root in a container",
    "root in a container, an old kernel",
    "a user",
    "a user in a container",
)
# What a process may do to its like on an ordinary machine. The rest depends on the machine.
ORDINARY = {
    "read a file",
    "write a file",
    "create a file",
    "list a folder",
    "learn of a file",
    "remove a file",
    "cut its own file",
    "connect by TCP",
    "listen",
    "connect by UDP",
    "connect to a Unix socket",
    "connect to an abstract one",
    "open netlink",
    "signal the service",
    "kill somebody",
    "open somebody's memory",
    "read somebody's environment",
    "read the parent's environment",
    "change somebody's limits",
    "start a process",
    "be dumped",
    "outlive its parent",
    "map code",
    "stop its clock",
}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What `tests.serving.media.sandbox.environments` prints."""
    if os.geteuid():
        pytest.skip("only root can be root, a user, and somebody in a container")
    command = [sys.executable, "-m", "tests.serving.media.sandbox.environments"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    results: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return results


def environment(found: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in found:
        pytest.skip("Python is where only root can get, and this kernel gives no namespaces to change that in")
    assert "error" not in found[name], found[name]
    return found[name]


def holding(result: dict[str, Any]) -> set[str]:
    return {layer["name"] for layer in result["layers"] if layer["holds"]}


def test_the_attacks_work_where_nothing_keeps_them(found: dict[str, dict[str, Any]]) -> None:
    outcomes = environment(found, "unconfined")["outcomes"]
    assert {name: outcomes[name] for name in ORDINARY} == dict.fromkeys(ORDINARY, "done")


@pytest.mark.parametrize("name", CONFINED)
def test_a_worker_that_is_taken_over_reaches_nothing(found: dict[str, dict[str, Any]], name: str) -> None:
    result = environment(found, name)
    assert result["refused"] is None
    assert len(result["outcomes"]) > len(ORDINARY) and set(result["outcomes"]) >= ORDINARY
    assert {attack: outcome for attack, outcome in result["outcomes"].items() if outcome != "EPERM"} == {}
    assert result["files"] == ["file", "secret", "socket", "victim", "writable"]
    # A dedicated user, or a user namespace: 64 processes and threads. Otherwise 64 more than the whole machine had.
    assert 0 < result["threads"] < 64 + (2 * result["everybody"] if name == "a user in a container" else 0)
    assert result["after"] == "png"


def test_which_layers_hold_where(found: dict[str, dict[str, Any]]) -> None:
    floor = {"no new privileges", "system call filter", "no capabilities", "hard limits"}
    landlock = {layer for layer in holding(environment(found, "root")) if layer.startswith("Landlock")}
    expected = {
        "root": floor | landlock | {"network namespace", "empty root directory", "dedicated user"},
        "root in a container": floor | landlock | {"empty root directory", "dedicated user"},
        "root in a container, an old kernel": floor | {"empty root directory", "dedicated user"},
        "a user in a container": floor | landlock,
        "a user in a container, an old kernel": floor,
        "a user without filters": floor - {"system call filter"} | landlock,
    }
    assert {name: holding(environment(found, name)) for name in expected} == expected


def test_below_the_floor_no_worker_starts(found: dict[str, dict[str, Any]]) -> None:
    if "Landlock" not in holding(environment(found, "root")):
        pytest.skip("this kernel has no Landlock")
    refused = environment(found, "a user in a container, an old kernel")["refused"]
    assert refused == (
        "decoding workers cannot be confined, they lack: empty root directory (Operation not permitted) and "
        "Landlock (the kernel has no Landlock)"
    )
    refused = environment(found, "a user without filters")["refused"]
    assert refused.endswith("they lack: system call filter (Operation not permitted)")


def test_landlock_holds_without_the_filter(found: dict[str, dict[str, Any]]) -> None:
    """Each layer by itself; --unsafe-media lets the others go."""
    result = environment(found, "a user without filters")
    if not {"Landlock", "Landlock for TCP", "Landlock for signals"} <= holding(result):
        pytest.skip("this kernel's Landlock does not know of signals")
    assert result["after"] == "png"
    kept = ORDINARY - {
        "learn of a file",
        "connect by UDP",
        "connect to a Unix socket",
        "open netlink",
        "change somebody's limits",
        "start a process",
        "be dumped",
        "outlive its parent",
        "map code",
        "stop its clock",
    }
    assert {name for name in kept if result["outcomes"][name] == "done"} == set()


def without_filters(tmp_path: Path, *arguments: str) -> list[str]:
    """A `zoetrope` command on free ports, on a machine whose kernel installs no filters."""
    command = [sys.executable, "-m", "tests.serving.media.sandbox.environments", *arguments]
    return [*command, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]


def test_zoetrope_serve_says_so_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        without_filters(tmp_path, "serve"), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: media: decoding workers cannot be confined, they lack: system call filter (")
    assert line.endswith(
        "; run `zoetrope doctor` to see what this machine allows, or accept the risk with --unsafe-media"
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.long
def test_zoetrope_starts_where_it_is_told_to(tmp_path: Path) -> None:
    command = without_filters(tmp_path, "gateway", "--unsafe-media")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as gateway:
        assert gateway.stdout is not None
        try:
            assert gateway.stdout.readline().startswith("ready grpc=")
        finally:
            gateway.terminate()


# What it says, and how it ends


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One whose workers can be taken over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoetrope.serving.media.sandbox.worker_process.MODULE", MODULE)
        sandbox = Sandbox(memory_bytes=512 << 20, seconds=20.0)
        yield sandbox
        sandbox.close()


def hostile(path: Path, **script: Any) -> Path:
    path.write_bytes(TAKES_OVER + json.dumps(script).encode())
    return path


@pytest.mark.parametrize(
    "text, times",
    [
        ("", 0),
        ("null", 1),
        ("[]", 1),
        ("{}", 1),
        ("[", 500_000),
        ("{", 1),
        ("9", 500_000),
        ("x", 3_000_000),
        ('{"result": 5}', 1),
        ('{"result": {"width": "wide"}}', 1),
        ('{"refused": {}}', 1),
        ('{"failed": "write", "errno": -5}', 1),
        ('{"failed": []}', 1),
    ],
    ids=lambda value: str(value)[:20],
)
def test_no_answer_does_harm(sandbox: Sandbox, tmp_path: Path, text: str, times: int) -> None:
    with pytest.raises(MediaError, match=r"^it |the decoder gave an invalid answer$"):
        examine(sandbox, hostile(tmp_path / "file", say=text, times=times), name="it")
    assert examine(sandbox, write_picture(tmp_path / "a.png")).info["container"] == "png"


def test_reasons_stay_short(sandbox: Sandbox, tmp_path: Path) -> None:
    said = json.dumps({"refused": "a\n\x1bb" * 10_000})
    with pytest.raises(MediaError) as caught:
        examine(sandbox, hostile(tmp_path / "file", say=said, times=1))
    assert len(str(caught.value)) == 1_000 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "answer",
    [
        {"shape": [2, 2, 3], "fps": 8.0},
        {"shape": [1, 2, 2, -3], "fps": 8.0},
        {"shape": [1 << 40, 1 << 40, 3, 1], "fps": 8.0},
        {"shape": [1, 2, 2, 4], "fps": 8.0},
        {"shape": "frames", "fps": 8.0},
        {"shape": [1, 2, 2, 3], "fps": 0.0},
        {"shape": [1, 2, 2, 3]},
        {},
    ],
)
def test_frames_are_what_was_written(sandbox: Sandbox, tmp_path: Path, answer: dict[str, Any]) -> None:
    path = hostile(tmp_path / "file", write="00" * 12, answer=answer)
    with pytest.raises(MediaError, match="invalid answer"):
        sandbox.read_clip(path, max_seconds=1.0)


def test_sounds_are_what_was_asked_for(sandbox: Sandbox, tmp_path: Path) -> None:
    """What is decoded outside of the sandbox afterwards is plain WAV, whatever the worker wrote."""
    clip = write_clip(tmp_path / "a.mp4", "libx264", sound="aac")
    assert sandbox.write_sound(clip, tmp_path / "good.wav", 0.25) == 0.25
    good = (tmp_path / "good.wav").read_bytes()
    to = tmp_path / "to.wav"
    for content in (clip.read_bytes(), good[:-1], good + b"\0" * 8, good[:20] + b"\1" + good[21:], b""):
        path = hostile(tmp_path / "file", write=content.hex(), answer={"seconds": 0.25})
        with pytest.raises(MediaError, match="the decoder wrote an invalid WAV file"):
            sandbox.write_sound(path, to, 0.25)
    with pytest.raises(MediaError, match="invalid answer"):
        sandbox.write_sound(hostile(path, write=good.hex(), answer={"seconds": 9.0}), to, 0.25)
    assert sandbox.write_sound(hostile(path, write=good.hex(), answer={"seconds": 0.25}), to, 0.25) == 0.25
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "file", "good.wav", "to.wav"]


def test_bombs_end_with_their_file(sandbox: Sandbox, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    examine(sandbox, picture)
    [worker] = [child for child in psutil.Process().children() if MODULE in child.cmdline()]
    with pytest.raises(MediaError, match="took more than 512 MiB of memory"):
        examine(sandbox, hostile(tmp_path / "file", memory=True))
    for script in ({"threads": True}, {"forks": 100}):
        with pytest.raises(MediaError, match="invalid answer"):
            examine(sandbox, hostile(tmp_path / "file", **script))
    assert examine(sandbox, picture).info["container"] == "png"
    assert worker.is_running() and len(worker.children()) <= STANDING_BY


def test_who_ignores_the_clock_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zoetrope.serving.media.sandbox.worker_process.MODULE", MODULE)
    sandbox = Sandbox(seconds=0.5)
    try:
        picture = write_picture(tmp_path / "a.png")
        before = psutil.Process().children()
        examine(sandbox, picture)
        [worker] = [child for child in psutil.Process().children() if child not in before]
        mine = [worker, *worker.children()]
        start = time.monotonic()
        with pytest.raises(MediaError, match=r"took longer than 0\.5 s"):
            examine(sandbox, hostile(tmp_path / "file", linger=60.0))
        assert time.monotonic() - start < 10.0
        assert wait_gone(mine, 10.0) == [], "the worker and all its children"
        assert examine(sandbox, picture).info["container"] == "png"
    finally:
        sandbox.close()
