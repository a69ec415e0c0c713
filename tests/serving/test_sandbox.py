"""Files from outside in processes of their own: the same results, and nothing that takes the parent along."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from serving.media import MediaError, VideoWriter, probe, probe_sound, read_clip, read_picture
from serving.media.confine import lacking
from serving.media.sandbox import MEMORY_BYTES, Sandbox
from tests.serving.colour_files import FORMATS, far_off, write_patches
from tests.serving.fuzz_media import run
from tests.serving.media_files import accepted, moving, slow_picture, write_clip, write_picture, write_sound

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return accepted(tmp_path_factory.mktemp("files"))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "serving.media.worker" in child.cmdline()]


def looking_at_files(worker: psutil.Process) -> list[psutil.Process]:
    """The children of a worker that have a file: they are the ones whose time is limited."""
    found = []
    for child in worker.children():
        with suppress(FileNotFoundError, ProcessLookupError):
            limits = Path(f"/proc/{child.pid}/limits").read_text().splitlines()
            if not any(line.startswith("Max cpu time") and "unlimited" in line for line in limits):
                found.append(child)
    return found


def first(find: Callable[[], list[psutil.Process]]) -> psutil.Process:
    """What is found, as soon as there is anything."""
    found: list[psutil.Process] = []

    def some() -> bool:
        found[:] = find()
        return bool(found)

    until(some)
    return found[0]


# The same as without


def test_results_are_those_of_the_decoders(sandbox: Sandbox, files: dict[str, Path]) -> None:
    for path in files.values():
        info = probe(path)
        assert sandbox.blocking.probe(path) == info
        if info.kind == "image":
            np.testing.assert_array_equal(sandbox.blocking.read_picture(path).pixels, read_picture(path).pixels)
        else:
            for size in (None, (32, 32)):
                ours = sandbox.blocking.read_clip(path, fps=5.0, max_seconds=10.0, size=size)
                plain = read_clip(path, fps=5.0, max_seconds=10.0, size=size)
                np.testing.assert_array_equal(ours.frames, plain.frames)
                assert ours.fps == plain.fps
                ours.frames[0] = 0  # as one's own


def test_high_dynamic_range_is_converted_there_too(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_patches(tmp_path / "hlg.mp4", FORMATS["hlg"])
    ours = sandbox.blocking.read_clip(path, fps=8.0, max_seconds=10.0)
    assert not far_off(ours.frames[0], FORMATS["hlg"])
    np.testing.assert_array_equal(ours.frames, read_clip(path, fps=8.0, max_seconds=10.0).frames)


async def test_event_loops_are_served(sandbox: Sandbox, files: dict[str, Path], tmp_path: Path) -> None:
    clip, picture = files["mp4 h264"], files["png"]
    several = await asyncio.gather(sandbox.probe(clip), sandbox.probe(picture), sandbox.examine(picture))
    assert several[0] == probe(clip) and several[1] == probe(picture) and several[2].mime_type == "image/png"
    assert (await sandbox.read_picture(picture)).pixels.shape == (48, 64, 3)
    assert (await sandbox.read_clip(clip, max_seconds=5)).frames.shape == (6, 48, 64, 3)
    assert await sandbox.probe_sound(clip, 5.0) == probe_sound(clip, 5.0)
    assert await sandbox.write_sound(clip, tmp_path / "a.wav", 0.25) == 0.25


def test_refusals_name_the_file_as_told_and_never_its_path(sandbox: Sandbox, files: dict[str, Path]) -> None:
    clip = files["mp4 h264"]
    with pytest.raises(MediaError, match=r"^cat\.mp4 lasts 0\.750 s or more, the limit is 0\.5 s$"):
        sandbox.blocking.read_clip(clip, max_seconds=0.5, name="cat.mp4")
    with pytest.raises(MediaError, match=r"^the file is no picture"):
        sandbox.blocking.read_picture(clip)
    with pytest.raises(MediaError, match=r"^cannot read the file: No such file"):
        sandbox.blocking.probe(clip.with_name("nothing"))
    with pytest.raises(MediaError, match=r"^cannot read the file: No such file"):
        sandbox.blocking.examine(clip.with_name("nothing"))


# What clients may send


@pytest.mark.parametrize(
    "kind, mime_type",
    [
        ("mp4 h264", "video/mp4"),
        ("mp4 hevc", "video/mp4"),
        ("webm vp9", "video/webm"),
        ("webm av1", "video/webm"),
        ("png", "image/png"),
        ("jpeg", "image/jpeg"),
        ("webp", "image/webp"),
        ("heic", "image/heic"),
        ("avif", "image/avif"),
        ("animated gif", "image/gif"),
        ("animated webp", "image/webp"),
    ],
)
def test_formats_that_are_accepted(sandbox: Sandbox, files: dict[str, Path], kind: str, mime_type: str) -> None:
    examined = sandbox.blocking.examine(files[kind])
    assert examined.mime_type == mime_type
    assert (examined.info["width"], examined.info["height"]) == (64, 48)
    assert examined.info["kind"] == ("image" if mime_type.startswith("image") and " " not in kind else "clip")


@pytest.mark.parametrize(
    "name, codec, mime_type",
    [
        ("a.wav", "pcm_s16le", "audio/wav"),
        ("a.flac", "flac", "audio/flac"),
        ("a.mp3", "libmp3lame", "audio/mpeg"),
        ("a.ogg", "libopus", "audio/ogg"),
        ("a.m4a", "aac", "audio/mp4"),
    ],
)
def test_sound_is_accepted_and_copied_as_plain_wav(
    sandbox: Sandbox, tmp_path: Path, name: str, codec: str, mime_type: str
) -> None:
    examined = sandbox.blocking.examine(write_sound(tmp_path / name, codec))
    assert examined.mime_type == mime_type and examined.info["kind"] == "sound"
    assert examined.info["seconds"] == pytest.approx(0.5, abs=0.06) and examined.info["channels"] == 1
    copy = tmp_path / "copy"
    seconds = sandbox.blocking.write_sound(tmp_path / name, copy, 10.0)
    plain = probe_sound(copy, 1.0)
    assert (plain.container, plain.codec, plain.sample_rate, plain.channels) == ("wav", "pcm_f32le", 48_000, 2)
    assert plain.seconds == seconds == pytest.approx(examined.info["seconds"])
    with pytest.raises(MediaError, match=r"lasts longer than 0\.1 s"):
        sandbox.blocking.probe_sound(tmp_path / name, 0.1)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_the_copy_of_a_sound_gives_the_same_video(tmp_path: Path, sandbox: Sandbox, container: str) -> None:
    source = write_clip(tmp_path / "source.mp4", "libx264", sound="aac")
    sandbox.blocking.write_sound(source, tmp_path / "copy.wav", 60.0)
    for audio in ("source.mp4", "copy.wav"):
        path = tmp_path / f"{audio}.{container}"
        with VideoWriter(path, 64, 48, 8, container, {}, audio=tmp_path / audio) as writer:  # type: ignore[arg-type]
            writer.write(moving(6))
    first, second = (tmp_path / f"{audio}.{container}" for audio in ("source.mp4", "copy.wav"))
    assert first.read_bytes() == second.read_bytes()


def test_sizes_are_limited_before_anything_is_read(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(MediaError, match=r"^the file has 100000001 bytes, the limit is 100000000$"):
        sandbox.blocking.examine(path)
    path.write_bytes(b"")
    with pytest.raises(MediaError, match=r"^the file is empty$"):
        sandbox.blocking.examine(path)


# Limits


def test_a_file_that_takes_too_long_is_given_up_and_the_next_one_served(tmp_path: Path) -> None:
    path = slow_picture(tmp_path / "slow.webp")
    sandbox = Sandbox(seconds=0.3)
    try:
        before = {worker.pid for worker in workers()}
        with pytest.raises(MediaError, match=r"^the file took longer than 0\.3 s to examine$"):
            sandbox.blocking.probe(path)
        mine = {worker.pid for worker in workers()} - before
        assert sandbox.blocking.probe(write_picture(tmp_path / "a.png")).container == "png"
        assert {worker.pid for worker in workers()} - before == mine, "what ended is the child"
    finally:
        sandbox.close()


def test_a_worker_that_does_not_keep_time_is_ended(tmp_path: Path) -> None:
    """One that was taken over could hold on; being stopped is the nearest thing."""
    path = slow_picture(tmp_path / "slow.webp")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox(seconds=0.5)
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(sandbox.blocking.probe, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            child = first(lambda: looking_at_files(worker))
            child.suspend()
            with pytest.raises(MediaError, match=r"^the file took longer than 0\.5 s to examine$"):
                waiting.result()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert not worker.is_running()
        assert sandbox.blocking.probe(write_picture(tmp_path / "a.png")).container == "png"
    finally:
        sandbox.close()


def test_a_file_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    Image.new("L", (7_900, 7_900)).convert("RGB").save(tmp_path / "big.png", compress_level=1)  # 187 MB of pixels
    sandbox = Sandbox(memory_bytes=350 << 20)
    try:
        for _ in range(2):
            with pytest.raises(MediaError, match=r"^the file took more than 350 MiB of memory to examine$"):
                sandbox.blocking.probe(tmp_path / "big.png")
            assert sandbox.blocking.probe(write_picture(tmp_path / "a.png")).container == "png"
    finally:
        sandbox.close()


def test_a_crash_is_the_files_fault_and_the_next_one_served(tmp_path: Path) -> None:
    path, picture = slow_picture(tmp_path / "slow.webp"), write_picture(tmp_path / "a.png")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(sandbox.blocking.probe, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            first(lambda: looking_at_files(worker)).send_signal(signal.SIGSEGV)
            with pytest.raises(MediaError, match=r"^the file cannot be read: its decoder crashed \(SIGSEGV\)$"):
                waiting.result()
        assert sandbox.blocking.probe(picture).container == "png"
        assert worker.is_running()
    finally:
        sandbox.close()
    assert {worker.pid for worker in workers()} <= others


def test_a_dead_worker_is_our_fault_and_replaced(tmp_path: Path) -> None:
    path, picture = slow_picture(tmp_path / "slow.webp"), write_picture(tmp_path / "a.png")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(sandbox.blocking.probe, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            first(lambda: looking_at_files(worker))
            worker.kill()
            with pytest.raises(OSError, match="a media worker ended: SIGKILL"):
                waiting.result()
        assert sandbox.blocking.probe(picture).container == "png"
    finally:
        sandbox.close()


def test_children_that_die_waiting_are_replaced(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        sandbox.blocking.probe(picture)
        [worker] = [worker for worker in workers() if worker.pid not in others]
        waiting = worker.children()
        for child in waiting:
            child.kill()
        until(lambda: not any(child.is_running() for child in waiting))
        for _ in range(3):
            assert sandbox.blocking.probe(picture).container == "png"
    finally:
        sandbox.close()


def visible(proc: Path, name: str) -> Any:
    """What /proc tells of a process; None: not to this user."""
    try:
        if name == "fd":
            return sorted(os.readlink(link) for link in (proc / name).iterdir())
        return (proc / name).read_bytes() if name == "environ" else os.readlink(proc / name)
    except PermissionError:
        return None


def test_workers_hold_what_they_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tr0ub4dor")
    path = slow_picture(tmp_path / "slow.webp")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    try:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(sandbox.blocking.probe, path)
            worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
            child = first(lambda: looking_at_files(worker))
            proc = Path(f"/proc/{child.pid}")
            limits = proc.joinpath("limits").read_text()
            status = dict(line.split(":\t", 1) for line in proc.joinpath("status").read_text().splitlines())
            seen = {name: visible(proc, name) for name in ("environ", "ns/net", "root", "fd")}
            cpus = child.cpu_affinity()
            waiting.result()
    finally:
        sandbox.close()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
    assert found["Max open files"] == ["64", "64"] and found["Max core file size"] == ["0", "0"]
    assert found["Max address space"] == [str(MEMORY_BYTES)] * 2 and found["Max file size"] == ["0", "0"]
    assert found["Max cpu time"] == ["31", "32"] and found["Max processes"] != ["unlimited"] * 2
    assert len(cpus) == min(4, len(os.sched_getaffinity(0)))
    assert status["NoNewPrivs"] == "1"
    assert all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
    holding = {layer.name for layer in sandbox.layers if layer.holds}
    assert lacking(sandbox.layers) == []
    if "user of its own" in holding:
        assert "0" not in {*status["Uid"].split(), *status["Gid"].split()} and not status["Groups"].split()
    if seen["environ"] is not None:  # hidden from everybody but root, which is fine
        assert b"tr0ub4dor" not in seen["environ"] and b"PYTHONPATH" in seen["environ"]
        nothing, file, answer = seen["fd"][:3], seen["fd"][3:-1], seen["fd"][-1]
        assert nothing == [os.devnull] * 3 and file == [str(path)] and answer.startswith("pipe:")
        if "network namespace" in holding:
            assert seen["ns/net"] != os.readlink("/proc/self/ns/net")
        if "empty root directory" in holding:
            assert "deleted" in seen["root"]


def test_a_closed_sandbox_ends_what_is_in_progress(tmp_path: Path) -> None:
    path = slow_picture(tmp_path / "slow.webp")
    others = {worker.pid for worker in workers()}
    sandbox = Sandbox()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(sandbox.blocking.probe, path)
        worker = first(lambda: [worker for worker in workers() if worker.pid not in others])
        child = first(lambda: looking_at_files(worker))
        sandbox.close()
        with pytest.raises(OSError, match="ended: SIGKILL"):
            waiting.result()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert {worker.pid for worker in workers()} <= others


def test_what_is_no_file_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """At once: nobody waits for the other end of a pipe."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(MediaError, match=r"^cannot read the file: not a regular file$"):
            sandbox.blocking.probe(path)


PARENT = """
import os, signal, sys
from pathlib import Path
import psutil
from serving.media.sandbox import Sandbox
Sandbox().blocking.probe(Path(sys.argv[1]))
print([child.pid for child in psutil.Process().children()][0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(picture)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: not psutil.pid_exists(int(done.stdout)))


FULL_DISK = """
import sys
from pathlib import Path
from serving.media.sandbox import Sandbox
sandbox = Sandbox(scratch=Path(sys.argv[1]))
try:
    sandbox.blocking.read_picture(Path(sys.argv[2]))
except OSError as error:
    print(type(error).__name__, error.strerror)
print(sandbox.blocking.probe(Path(sys.argv[2])).container, list(Path(sys.argv[1]).iterdir()))
sandbox.close()
"""


def test_a_full_scratch_directory_is_not_the_files_fault(tmp_path: Path) -> None:
    """On a real small file system, mounted in a namespace of its own."""
    scratch, picture = tmp_path / "scratch", tmp_path / "a.png"
    scratch.mkdir()
    Image.new("RGB", (500, 500)).save(picture)
    script = 'mount -t tmpfs -o size=200k none "$1" && exec "$2" -c "$3" "$1" "$4"'
    if subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", scratch], check=False).returncode:
        pytest.skip("this kernel gives no namespaces to mount in")
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(scratch), sys.executable, FULL_DISK, str(picture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    first, second = done.stdout.splitlines()
    assert first == "OSError what was decoded cannot be written: No space left on device"
    assert second == "png []"


def test_workers_that_do_not_start_are_not_the_files_fault(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Sandbox()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    try:
        with pytest.raises(OSError, match="a media worker does not start: status 1"):
            sandbox.blocking.probe(files["png"])
        monkeypatch.undo()
        assert sandbox.blocking.probe(files["png"]).container == "png"
    finally:
        sandbox.close()


@pytest.mark.parametrize("options", [{"workers": 0}, {"memory_bytes": 1 << 20}, {"seconds": 0.0}])
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Sandbox(**options)


def test_broken_files_of_all_kinds_are_answered() -> None:
    """A part of what ``python -m tests.serving.fuzz_media`` does."""
    outcomes, longest = run(250, seed=6)
    assert sum(outcomes.values()) == 250 and longest < 10.0
    results = {outcome for _, outcome in outcomes}
    assert {"accepted", "refused"} <= results
    assert not any(outcome.startswith("crashed") for outcome in results), outcomes
