"""A service takes what `--local` takes, for each field, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.serving.media.files import (
    ANIMATIONS,
    CLIPS,
    PICTURES,
    SOUNDS,
    moving,
    taken,
    write_animation,
    write_clip,
    write_picture,
    write_sound,
)
from zoetrope.model.request.tasks import (
    EditVideo,
    ImageToVideo,
    InvalidRequest,
    MediaInfo,
    ReferenceToVideo,
    Task,
    TextToVideo,
)
from zoetrope.serving.api.names import MEDIA
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.submit.media import ClientMedia
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.media import MediaError, probe, read_clip, read_picture
from zoetrope.serving.media.formats import MEDIA_TYPES
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.media.task_inputs import examine
from zoetrope.serving.outbound import Guard
from zoetrope.serving.storage.store import open_artifacts

FIELDS = ("image", "video", "references.0", "audio")
TAKEN = (*PICTURES, *ANIMATIONS, *CLIPS, *SOUNDS)
Answer = MediaInfo | str | None  # of a sound None; of a refusal the reason


@dataclass
class Doors:
    """Both ways in."""

    client_media: ClientMedia

    def local(self, path: Path, field: str) -> Answer:
        task: Task = TextToVideo(prompt="a")
        match field:
            case "image":
                task = ImageToVideo(image=str(path))
            case "video":
                task = EditVideo(prompt="a", video=str(path))
            case "references.0":
                task = ReferenceToVideo(prompt="a", references=(str(path),))
        try:
            return examine(task, audio=str(path) if field == "audio" else None).get(field)
        except InvalidRequest as error:
            [violation] = error.violations
            assert violation.field == field
            return violation.description.replace(str(path), "the file")

    async def service(self, path: Path, field: str) -> Answer:
        try:
            media = await self.client_media.add_file("us", path, path.name)
            found = await self.client_media.prepare({"m0": MEDIA + media.id}, {"m0": field}, "us")
        except InvalidRequest as error:
            [violation] = error.violations
            description = violation.description
            return description if "the file" in description else f"the file {description}"
        return found["m0"].info


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    stores, sandbox = open_stores(settings.database_url), Sandbox()
    yield Doors(
        ClientMedia(settings, stores.media, stores.jobs, open_artifacts(settings.artifacts_url), sandbox, Guard())
    )
    sandbox.close()
    stores.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    found = taken(tmp_path_factory.mktemp("files"))
    return {path.name: (path, kind) for path, kind in found.items()}


@pytest.mark.parametrize("name", TAKEN)
async def test_both_doors_take_the_same(doors: Doors, files: dict[str, tuple[Path, str]], name: str) -> None:
    path, media_type = files[name]
    answers = {field: doors.local(path, field) for field in FIELDS}
    assert {field: await doors.service(path, field) for field in FIELDS} == answers
    picture, clip, reference, audio = answers.values()
    if name in PICTURES:
        assert picture == reference == clip == MediaInfo("image", 64, 48)  # the model's limits come later
    elif name in ANIMATIONS:
        assert picture == MediaInfo("image", 64, 48), "its first frame"
        assert clip == reference == MediaInfo("clip", 64, 48, frames=3, fps=10.0)
    elif name in CLIPS:
        assert isinstance(clip, MediaInfo) and clip == reference == picture
        assert (clip.kind, clip.width, clip.height, clip.frames) == ("clip", 64, 48, 6)
        assert clip.has_audio == (CLIPS[name][2] is not None)
    if name in SOUNDS or (name in CLIPS and CLIPS[name][2]):
        assert audio is None
    else:
        assert isinstance(audio, str) and "has no decodable sound" in audio
    assert (await doors.client_media.add_file("us", path, "")).mime_type == media_type


def test_what_a_service_announces_is_what_it_takes(files: dict[str, tuple[Path, str]]) -> None:
    assert {kind for _, kind in files.values()} == set(MEDIA_TYPES)


def write_refused(path: Path) -> Path:
    match path.name:
        case "old.avi":
            with av.open(str(path), "w") as file:
                stream = file.add_stream("cinepak", rate=8)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
                file.mux(stream.encode(av.VideoFrame.from_ndarray(moving(1)[0], format="rgb24")))
                file.mux(stream.encode(None))
        case "picture.jp2" | "picture.tga":
            write_picture(path)
        case "long.flac":
            write_sound(path, "flac", seconds=121)
        case _:
            path.write_bytes(REFUSED[path.name][0])
    return path


REFUSED = {
    "text.mp4": (b"no video at all\n" * 100, "not one of the supported pictures (PNG"),
    "page.html": (b"<html><body>404</body></html>\n" * 20, "not one of the supported pictures (PNG"),
    "drawing.svg": (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "not one of the supported pictures",
    ),
    "list.m3u8": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n",
        "not one of the supported pictures",
    ),
    "picture.jp2": (b"", "not one of the supported pictures"),
    "picture.tga": (b"", "not one of the supported pictures"),
    "old.avi": (b"", "has cinepak video; supported codecs: h264, hevc"),
    "long.flac": (b"", "lasts longer than 120 s, the limit"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_both_doors_refuse_the_same_with_the_same_reason(doors: Doors, tmp_path: Path, name: str) -> None:
    path = write_refused(tmp_path / name)
    for field in FIELDS:
        answer = doors.local(path, field)
        assert isinstance(answer, str) and REFUSED[name][1] in answer
        assert await doors.service(path, field) == answer


# Animated pictures


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_are_read_as_clips_and_as_pictures(tmp_path: Path, suffix: str) -> None:
    path = write_animation(tmp_path / f"a.{suffix}", frames=4, milliseconds=200)
    clip = read_clip(path, fps=10, max_seconds=1)
    assert clip.frames.shape == (8, 48, 64, 3) and clip.fps == 10
    off = 0 if suffix in ("webp", "png") else 40  # a palette of 256 colours; chroma of half the size
    assert np.abs(clip.frames[::2].astype(int) - moving(4)).max() <= off
    np.testing.assert_array_equal(clip.frames[::2], clip.frames[1::2])
    np.testing.assert_array_equal(read_picture(path).pixels, clip.frames[0])
    assert (read_clip(path, max_seconds=1).fps, probe(path).duration_seconds) == (5.0, 0.8)
    with pytest.raises(MediaError, match=r"lasts 0\.600 s or more, the limit is 0\.5 s"):
        read_clip(path, max_seconds=0.5)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_frames_without_a_time_last_as_long_as_in_browsers(tmp_path: Path, suffix: str) -> None:
    info = probe(write_animation(tmp_path / f"a.{suffix}", milliseconds=0))
    assert (info.frames, info.fps, round(info.duration_seconds, 3)) == (3, 10.0, 0.3)


def test_transparent_frames_are_laid_over_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 32), (200, 0, 0, alpha)) for alpha in (255, 0, 128)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    shown = read_clip(tmp_path / "a.webp", max_seconds=1).frames[:, 16, 16]
    np.testing.assert_allclose(shown, [(200, 0, 0), (255, 255, 255), (227, 127, 127)], atol=1)


def test_a_picture_for_programs_without_animation_is_none_of_the_frames(tmp_path: Path) -> None:
    other, *frames = [Image.new("RGB", (32, 32), colour) for colour in ("black", "red", "lime")]
    other.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=100)
    clip = read_clip(tmp_path / "a.png", max_seconds=1)
    assert clip.frames[:, 16, 16].tolist() == [[255, 0, 0], [0, 255, 0]]
    assert read_picture(tmp_path / "a.png").pixels[16, 16].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_an_animation_that_is_cut_short_is_no_clip(tmp_path: Path, suffix: str) -> None:
    path = write_animation(tmp_path / f"a.{suffix}", frames=6)
    content = path.read_bytes()
    for part in (0.5, 0.9):
        path.write_bytes(content[: int(len(content) * part)])
        for look in (probe, lambda path: read_clip(path, max_seconds=5)):
            with pytest.raises(MediaError, match=rf"a\.{suffix}") as caught:
                look(path)
            assert "\n" not in str(caught.value)


def test_large_animations_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    frames = [Image.new("1", (4_000, 4_000), value) for value in (0, 1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=r"4000x4000, 16000000 pixels; the limit is 9437184"):
        probe(tmp_path / "a.gif")


def test_a_gallery_is_a_picture(tmp_path: Path) -> None:
    """Pages of a TIFF and pictures of a HEIC have no time."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    for suffix in ("tiff", "heic"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert (probe(path).kind, probe(path).frames) == ("image", 1)
        assert np.abs(read_picture(path).pixels.astype(int) - (255, 0, 0)).max() <= 6
        with pytest.raises(MediaError, match="is a picture"):
            read_clip(path, max_seconds=1)


def test_a_track_of_an_unknown_codec_does_not_hide_the_next(tmp_path: Path) -> None:
    """Phones put sound for their own players beside that for all others."""
    path = write_clip(tmp_path / "a.mov", "libx264", sound="aac")
    with av.open(str(path)) as file, av.open(str(tmp_path / "b.mov"), "w") as both:
        copies = [both.add_stream_from_template(file.streams[index]) for index in (0, 1, 1)]
        for packet in file.demux():
            if packet.size:
                for copy in copies[1:] if packet.stream.type == "audio" else copies[:1]:
                    packet.stream = copy
                    both.mux(packet)
    content = (tmp_path / "b.mov").read_bytes()
    at = content.index(b"mp4a")
    (tmp_path / "b.mov").write_bytes(content[:at] + b"apac" + content[at + 4 :])
    assert probe(tmp_path / "b.mov").has_audio
