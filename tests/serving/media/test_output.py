"""Finished files: checked by decoding them, never blank, and they tell how they were made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image

from tests.serving.media.files import moving, write_clip
from zoetrope import __version__
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import parse_request
from zoetrope.serving.media import (
    Container,
    MediaError,
    PictureContainer,
    VideoWriter,
    probe,
    read_metadata,
    read_picture,
    verify,
    write_picture,
)
from zoetrope.serving.media.contrast import ENOUGH, Contrast
from zoetrope.serving.media.tags import tagged
from zoetrope.serving.stages.render import check_finite, render_video

CONTAINERS: tuple[Container, ...] = ("mp4", "mkv")
FORMATS: dict[PictureContainer, str] = {"png": "png", "webp": "webp", "jpg": "jpeg"}


def spec_of(container: Container = "mp4") -> VideoSpec:
    request = parse_request({"task": {"kind": "text_to_video", "prompt": "a cat"}, "seed": 7})
    return replace(resolve(request, find_model("nano"), 0), width=64, height=48, frames=6, fps=8, container=container)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_tells_how_it_was_made(tmp_path: Path, container: Container) -> None:
    spec, path = spec_of(container), tmp_path / "video"
    info = render_video(spec, [moving(4), moving(4)], path, metadata={"denoising_seconds": "1.250"})
    assert (info.frames, info.width, info.height, info.fps) == (6, 64, 48, 8.0)
    assert read_metadata(path) == {
        "version": __version__,
        "task": "text_to_video",
        "model": "nano",
        "seed": "7",
        "steps": str(spec.steps),
        "guidance": f"{spec.guidance:g}",
        "flow_shift": "3",
        "denoised_at": f"{spec.native_width}x{spec.native_height}",
        "denoising_seconds": "1.250",
    }
    assert "a cat" not in str(probe(path).metadata)


def picture_spec(container: PictureContainer) -> VideoSpec:
    return replace(spec_of(), frames=1, container=container)


@pytest.mark.parametrize("container", get_args(PictureContainer))
@pytest.mark.parametrize("noise", [True, False])
def test_one_frame_is_a_picture(tmp_path: Path, container: PictureContainer, noise: bool) -> None:
    """Whatever the file is called; JPEG keeps even noise within a few levels, for its colours are not subsampled."""
    rng, path = np.random.default_rng(3), tmp_path / "picture"
    frame = rng.integers(0, 256, (1, 48, 64, 3), dtype=np.uint8) if noise else moving(1)
    spec = picture_spec(container)
    assert find_model("nano").default_flow_shift == spec.flow_shift == 3.0
    info = render_video(spec, [frame], path, metadata={"denoising_seconds": "1.250"})
    assert (info.kind, info.container, info.width, info.height, info.frames) == ("image", FORMATS[container], 64, 48, 1)
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == (FORMATS[container].upper(), "RGB", (64, 48))
        shown = np.asarray(image)
    distance = np.abs(shown.astype(int) - frame[0])
    assert (distance.max() == 0) if container != "jpg" else (distance.mean() < 4)
    assert read_metadata(path) == {
        "version": __version__,
        "task": "text_to_video",
        "model": "nano",
        "seed": "7",
        "steps": str(spec.steps),
        "guidance": f"{spec.guidance:g}",
        "flow_shift": "3",
        "denoised_at": f"{spec.native_width}x{spec.native_height}",
        "denoising_seconds": "1.250",
    }
    assert b"a cat" not in path.read_bytes()
    assert (read_picture(path).pixels == shown).all(), "it can be the input of another job"


def test_pictures_tell_viewers_how_they_were_made(tmp_path: Path) -> None:
    for container in get_args(PictureContainer):
        render_video(picture_spec(container), [moving(1)], tmp_path / container)
    with Image.open(tmp_path / "png") as png, Image.open(tmp_path / "jpg") as jpg:
        assert png.info["Comment"] == jpg.getexif()[ExifTags.Base.ImageDescription]
        assert png.info["Comment"].startswith("model=nano seed=7 steps=")


@pytest.mark.parametrize("container", get_args(PictureContainer))
def test_a_picture_is_scaled_to_its_size_and_never_blank(tmp_path: Path, container: PictureContainer) -> None:
    path = tmp_path / "picture"
    info = render_video(picture_spec(container), [moving(1)[:, ::2, ::2], moving(3)], path)
    assert (info.width, info.height) == (64, 48)
    path.unlink()
    with pytest.raises(MediaError, match=r"every pixel is \(9, 9, 9\): the picture is blank"):
        render_video(picture_spec(container), [np.full((1, 48, 64, 3), 9, np.uint8)], path)
    with pytest.raises(MediaError, match="no frames were written"):
        render_video(picture_spec(container), [], path)
    with pytest.raises(MediaError, match=r"the frame is float64 \[48, 64, 3\], the file takes uint8 \[48, 64, 3\]"):
        write_picture(path, np.zeros((48, 64, 3)), 64, 48, container, {})  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="cannot write"):
        render_video(picture_spec(container), [moving(1)], tmp_path / "missing" / "picture")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_was_not_written_right_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the encoder had swapped two colours."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[..., 0] = 200

    def swapped(pixels: NDArray[np.uint8]) -> Image.Image:
        return real(np.ascontiguousarray(pixels[..., ::-1]))

    real = Image.fromarray
    monkeypatch.setattr(Image, "fromarray", swapped)
    for container in get_args(PictureContainer):
        with pytest.raises(MediaError, match=r"pixels that differ from the frame by 1\d\d\.\d"):
            write_picture(tmp_path / "picture", frame, 64, 48, container, {})
    assert list(tmp_path.iterdir()) == []


def test_other_files_tell_nothing(tmp_path: Path) -> None:
    assert read_metadata(write_clip(tmp_path / "a.mp4", "libx264")) == {}
    for suffix in ("png", "webp", "jpg"):
        Image.fromarray(moving(1)[0]).save(tmp_path / f"a.{suffix}")
        assert read_metadata(tmp_path / f"a.{suffix}") == {}
    with pytest.raises(MediaError, match="No such file"):
        read_metadata(tmp_path / "b.mp4")


@pytest.mark.parametrize(
    "tags, complaint",
    [
        ({"Seed": "1"}, "tag name 'Seed' must have 1 to 64"), ({"": "1"}, "must have 1 to 64"),
        ({"a" * 65: "1"}, "must have 1 to 64"), ({"seed": "a\nb"}, "all printable"),
        ({"seed": "x" * 1_025}, "1025 characters; it must have at most 1024"),
    ],
)  # fmt: skip
def test_tags_that_a_file_cannot_hold_are_refused(tmp_path: Path, tags: dict[str, str], complaint: str) -> None:
    with pytest.raises(MediaError, match=complaint):
        tagged(tags)
    with pytest.raises(MediaError, match=complaint):
        render_video(spec_of(), [moving(6)], tmp_path / "video", metadata=tags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 200, 77)])
@pytest.mark.parametrize("container", CONTAINERS)
def test_one_colour_throughout_is_blank(tmp_path: Path, container: Container, colour: tuple[int, int, int]) -> None:
    frames = np.full((6, 48, 64, 3), colour, np.uint8)
    with pytest.raises(MediaError, match=r"every pixel of all 6 frames is \(\d+, \d+, \d+\): the video is blank"):
        render_video(spec_of(container), [frames[:2], frames[2:]], tmp_path / "video")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [(0, 0, 0, 0), (5, 47, 63, 2), (3, 21, 13, 1)])
def test_black_with_the_least_noise_is_a_video(tmp_path: Path, where: tuple[int, int, int, int]) -> None:
    """A prompt may ask for a night without stars; the encoder may even flatten it."""
    frames = np.zeros((6, 48, 64, 3), np.uint8)
    frames[where] = 1
    assert render_video(spec_of(), [frames], tmp_path / "video").frames == 6


def test_frames_that_change_colour_are_a_video(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(6, dtype=np.uint8), 48 * 64 * 3).reshape(6, 48, 64, 3)
    assert render_video(spec_of(), [frames], tmp_path / "video").frames == 6


def test_a_file_that_lost_its_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "video"
    with VideoWriter(path, 64, 48, 8, "mp4", {}) as writer:
        writer.write(np.full((6, 48, 64, 3), 40, np.uint8))
    verify(path, container="mp4", width=64, height=48, frames=6, fps=8, contrast=ENOUGH - 1)
    with pytest.raises(MediaError, match="nothing but the colour"):
        verify(path, container="mp4", width=64, height=48, frames=6, fps=8, contrast=ENOUGH)


@pytest.mark.parametrize("chunks", [[], [moving(5)]])
def test_too_few_frames_are_refused_and_leave_no_file(tmp_path: Path, chunks: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(MediaError, match=r"no frames were written|frames 5 instead of 6"):
        render_video(spec_of(), chunks, tmp_path / "video")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_latents_that_are_not_finite_are_refused(value: float) -> None:
    good, bad = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    check_finite([good, good])
    bad[1, 2, 3, 3] = value
    with pytest.raises(MediaError, match="1 of 96 values in the latents of segment 1 are not finite"):
        check_finite([good, bad])


@given(
    pixels=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=12),
    cuts=st.integers(1, 12),
)
def test_contrast_is_the_widest_range_of_a_colour(pixels: list[tuple[int, int, int]], cuts: int) -> None:
    frames = np.array(pixels, np.uint8).reshape(-1, 1, 1, 3)
    contrast = Contrast()
    for part in np.array_split(frames, cuts):
        contrast.add(part)
    exact = int(np.ptp(frames.reshape(-1, 3).astype(int), axis=0).max())
    assert contrast.levels == exact or contrast.levels >= ENOUGH <= exact
    assert exact or contrast.colour == pixels[0]
