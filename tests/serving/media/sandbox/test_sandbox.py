"""Files from outside in processes of their own: the same results, and nothing that takes the parent along."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.media.colour_files import FORMATS, far_off, write_patches
from tests.serving.media.files import accepted, examine, moving, write_clip, write_sound
from tests.serving.media.fuzz import run
from zoetrope.serving.media import MediaError, VideoWriter, probe, probe_sound, read_clip, read_picture
from zoetrope.serving.media.sandbox.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return accepted(tmp_path_factory.mktemp("files"))


# The same as without


def test_results_are_those_of_the_decoders(sandbox: Sandbox, files: dict[str, Path]) -> None:
    for path in files.values():
        info = probe(path)
        assert examine(sandbox, path).info == asdict(info)
        if info.kind == "image":
            np.testing.assert_array_equal(sandbox.read_picture(path).pixels, read_picture(path).pixels)
        else:
            for size in (None, (32, 32)):
                ours = sandbox.read_clip(path, fps=5.0, max_seconds=10.0, size=size)
                plain = read_clip(path, fps=5.0, max_seconds=10.0, size=size)
                np.testing.assert_array_equal(ours.frames, plain.frames)
                assert ours.fps == plain.fps
                ours.frames[0] = 0  # as one's own


def test_high_dynamic_range_is_converted_there_too(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_patches(tmp_path / "hlg.mp4", FORMATS["hlg"])
    ours = sandbox.read_clip(path, fps=8.0, max_seconds=10.0)
    assert not far_off(ours.frames[0], FORMATS["hlg"])
    np.testing.assert_array_equal(ours.frames, read_clip(path, fps=8.0, max_seconds=10.0).frames)


async def test_event_loops_are_served(sandbox: Sandbox, files: dict[str, Path], tmp_path: Path) -> None:
    clip, picture = files["mp4 h264"], files["png"]
    several = await asyncio.gather(sandbox.examine(clip), sandbox.examine(picture))
    assert [one.info for one in several] == [asdict(probe(clip)), asdict(probe(picture))]
    assert several[1].mime_type == "image/png"
    assert (await asyncio.to_thread(sandbox.read_picture, picture)).pixels.shape == (48, 64, 3)
    assert (await asyncio.to_thread(sandbox.read_clip, clip, max_seconds=5)).frames.shape == (6, 48, 64, 3)
    assert await asyncio.to_thread(sandbox.write_sound, clip, tmp_path / "a.wav", 0.25) == 0.25


def test_refusals_name_the_file_as_told_and_never_its_path(sandbox: Sandbox, files: dict[str, Path]) -> None:
    clip = files["mp4 h264"]
    with pytest.raises(MediaError, match=r"^cat\.mp4 lasts 0\.750 s or more, the limit is 0\.5 s$"):
        sandbox.read_clip(clip, max_seconds=0.5, name="cat.mp4")
    with pytest.raises(MediaError, match=r"^the file is not a supported picture"):
        sandbox.read_picture(clip)
    with pytest.raises(MediaError, match=r"^cannot read the file: No such file"):
        sandbox.read_picture(clip.with_name("nothing"))
    with pytest.raises(MediaError, match=r"^cannot read the file: No such file"):
        examine(sandbox, clip.with_name("nothing"))


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
    examined = examine(sandbox, files[kind])
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
    examined = examine(sandbox, write_sound(tmp_path / name, codec))
    assert examined.mime_type == mime_type and examined.info["kind"] == "sound"
    assert examined.info["seconds"] == pytest.approx(0.5, abs=0.06) and examined.info["channels"] == 1
    copy = tmp_path / "copy"
    seconds = sandbox.write_sound(tmp_path / name, copy, 10.0)
    plain = probe_sound(copy, 1.0)
    assert (plain.container, plain.codec, plain.sample_rate, plain.channels) == ("wav", "pcm_f32le", 48_000, 2)
    assert plain.seconds == seconds == pytest.approx(examined.info["seconds"])
    with pytest.raises(MediaError, match=r"lasts longer than 0\.1 s"):
        probe_sound(tmp_path / name, 0.1)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_the_copy_of_a_sound_gives_the_same_video(tmp_path: Path, sandbox: Sandbox, container: str) -> None:
    source = write_clip(tmp_path / "source.mp4", "libx264", sound="aac")
    sandbox.write_sound(source, tmp_path / "copy.wav", 60.0)
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
        examine(sandbox, path)
    path.write_bytes(b"")
    with pytest.raises(MediaError, match=r"^the file is empty$"):
        examine(sandbox, path)


# Faults


def test_what_is_no_file_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """At once: nobody waits for the other end of a pipe."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(MediaError, match=r"^cannot read the file: not a regular file$"):
            sandbox.read_picture(path)


FULL_DISK = """
import asyncio, sys
from pathlib import Path
from zoetrope.serving.media.sandbox.sandbox import Sandbox
sandbox = Sandbox(scratch=Path(sys.argv[1]))
try:
    sandbox.read_picture(Path(sys.argv[2]))
except OSError as error:
    print(type(error).__name__, error.strerror)
print(asyncio.run(sandbox.examine(Path(sys.argv[2]))).info["container"], list(Path(sys.argv[1]).iterdir()))
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
    assert first == "OSError cannot write the decoded data: No space left on device"
    assert second == "png []"


def test_workers_that_do_not_start_are_not_the_files_fault(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Sandbox()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    try:
        with pytest.raises(OSError, match="a media worker did not start: status 1"):
            examine(sandbox, files["png"])
        monkeypatch.undo()
        assert examine(sandbox, files["png"]).info["container"] == "png"
    finally:
        sandbox.close()


@pytest.mark.parametrize("options", [{"workers": 0}, {"memory_bytes": 1 << 20}, {"seconds": 0.0}])
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Sandbox(**options)


def test_broken_files_of_all_kinds_are_answered() -> None:
    """A part of what ``python -m tests.serving.media.fuzz`` does."""
    outcomes, longest = run(250, seed=6)
    assert sum(outcomes.values()) == 250 and longest < 10.0
    results = {outcome for _, outcome in outcomes}
    assert {"accepted", "refused"} <= results
    assert not any(outcome.startswith("crashed") for outcome in results), outcomes
