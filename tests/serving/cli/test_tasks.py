"""`zoetrope generate` with pictures and clips: which files make which task, and what becomes of them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.serving.media.files import without_sound, write_sound
from zoetrope.model.request.tasks import InvalidRequest, parse_request
from zoetrope.serving.cli.errors import CliError
from zoetrope.serving.cli.generate_request import GenerateRequest, TaskMedia
from zoetrope.serving.cli.local import generate_locally
from zoetrope.serving.cli.progress import ProgressView
from zoetrope.serving.media import VideoWriter, probe, read_clip

A, B = Path("a.png"), Path("b.mp4")


@pytest.mark.parametrize(
    ("media", "kind", "fields"),
    [
        (TaskMedia(), "text_to_video", {}),
        (TaskMedia(image=A), "image_to_video", {"image": "a.png", "loop": False}),
        (TaskMedia(image=A, loop=True), "image_to_video", {"image": "a.png", "loop": True}),
        (TaskMedia(clip=B), "image_to_video", {"clip": "b.mp4"}),
        (TaskMedia(clip=B, last_image=A), "image_to_video", {"clip": "b.mp4", "last_frame": "a.png"}),
        (TaskMedia(image=A, last_image=A), "first_last_frame", {"first_frame": "a.png", "last_frame": "a.png"}),
        (TaskMedia(panels=(A,)), "grid_to_video", {"panels": ["a.png"]}),
        (TaskMedia(references=(A, B)), "reference_to_video", {"references": ["a.png", "b.mp4"]}),
        (
            TaskMedia(references=(A,), image=A),
            "reference_to_video",
            {"references": ["a.png"], "first_frame": "a.png"},
        ),
        (
            TaskMedia(video=B, references=(A,), keep_audio=True),
            "edit_video",
            {"video": "b.mp4", "references": ["a.png"], "keep_audio": True},
        ),
    ],
)
def test_the_files_decide_the_kind_of_task(media: TaskMedia, kind: str, fields: dict[str, Any]) -> None:
    assert media.task() == {"kind": kind, **fields}
    parse_request(GenerateRequest("a word", Path("x.mp4"), media=media).request())


@pytest.mark.parametrize(
    ("media", "option"),
    [
        (TaskMedia(image=A, video=B), "image"),
        (TaskMedia(last_image=A), "last-image"),
        (TaskMedia(panels=(A,), references=(A,)), "reference"),
        (TaskMedia(keep_audio=True), "keep-audio"),
        (TaskMedia(loop=True), "loop"),
        (TaskMedia(clip=B, image=A), "clip"),
    ],
)
def test_files_of_two_tasks_are_refused(media: TaskMedia, option: str) -> None:
    with pytest.raises(CliError, match=f"^{option}: "):
        media.task()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture, a sheet, and a clip of 2.5 s at 12 frames a second."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (90, 160, 3), np.uint8)).save(folder / "picture.png")
    Image.fromarray(rng.integers(0, 255, (96, 160, 3), np.uint8)).save(folder / "sheet.webp")
    with VideoWriter(folder / "clip.mp4", 160, 90, 12, "mp4", {}) as writer:
        writer.write(np.repeat(rng.integers(0, 255, (30, 9, 16, 3), np.uint8), 10, axis=1).repeat(10, axis=2))
    return {name: folder / name for name in ("picture.png", "sheet.webp", "clip.mp4")}


def make(out: Path, media: TaskMedia, **options: Any) -> str:
    order = GenerateRequest("make it blue", out, steps=1, guidance=1.0, seed=1, size="320x180", media=media, **options)
    with ProgressView(Console(file=io.StringIO())) as view:
        return generate_locally(order, view)


def test_every_kind_of_task_makes_a_file(files: dict[str, Path], tmp_path: Path) -> None:
    picture, sheet, clip = files.values()
    tasks = {
        "image": TaskMedia(image=picture),
        "loop": TaskMedia(image=picture, loop=True),
        "onward": TaskMedia(clip=clip),
        "between": TaskMedia(image=picture, last_image=sheet),
        "nine": TaskMedia(panels=(picture,) * 9),
        "sheet": TaskMedia(panels=(sheet,)),
        "reference": TaskMedia(references=(picture, clip)),
        "edit": TaskMedia(video=clip, references=(picture,)),
    }
    for name, media in tasks.items():
        out = tmp_path / f"{name}.mkv"
        line = make(out, media)
        # An edit is as long as its source; where there is a last picture it is the last frame.
        frames = {"edit": 20, "between": 17, "loop": 17}.get(name, 16)
        assert f"frames={frames} fps=8" in line
        assert probe(out).frames == frames
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(tasks)


def test_given_frames_are_the_frames_of_the_clip(tmp_path: Path) -> None:
    """The first, the last, and those that it goes on from, whatever the network makes of the rest."""
    first, last = np.full((24, 40, 3), (200, 30, 40), np.uint8), np.full((24, 40, 3), (30, 40, 200), np.uint8)
    for name, pixels in (("first", first), ("last", last)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    between = TaskMedia(image=tmp_path / "first.png", last_image=tmp_path / "last.png")
    make(tmp_path / "out.mkv", between, frames=17)
    shown = read_clip(tmp_path / "out.mkv", max_seconds=3).frames.astype(int)
    assert np.abs(shown[0].mean((0, 1)) - (200, 30, 40)).max() < 12
    make(tmp_path / "onward.mkv", TaskMedia(clip=tmp_path / "out.mkv"))
    onward = read_clip(tmp_path / "onward.mkv", max_seconds=3).frames.astype(int)
    assert np.abs(onward[:5] - shown[-5:]).mean() < 12


def test_what_a_service_has_already_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "here.png").touch()
    given = (Path("media/here.png"), Path("media/med_1"), Path("operations/vid_1"), Path("a.png"))
    order = GenerateRequest("p", Path("x.mp4"), media=TaskMedia(references=given), audio=Path("media/med_2"))
    request = order.upload_request()
    assert request["task"]["references"] == [given[0], "media/med_1", "operations/vid_1", given[3]]
    assert request["audio"] == "media/med_2"
    assert order.request()["task"]["references"] == [str(path) for path in given]


@pytest.mark.parametrize(
    ("media", "field"),
    [
        ({"image": "clip.mp4"}, "image"),
        ({"video": "picture.png"}, "video"),
        ({"image": "nowhere.png"}, "image"),
        ({"references": ("picture.png",) * 3}, "references"),
    ],
)
def test_files_of_the_wrong_kind_are_named(
    media: dict[str, Any], field: str, files: dict[str, Path], tmp_path: Path
) -> None:
    folder = files["clip.mp4"].parent
    found: dict[str, Any] = {
        name: tuple(folder / item for item in value) if isinstance(value, tuple) else folder / value
        for name, value in media.items()
    }
    with pytest.raises(InvalidRequest) as refused:
        make(tmp_path / "x.mp4", TaskMedia(**found))
    assert refused.value.violations[0].field == field
    assert not list(tmp_path.iterdir())


def test_sound_that_is_none_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loaded(Exception):
        pass

    def load(*_: object) -> None:
        raise Loaded

    monkeypatch.setattr("zoetrope.model.pipeline.LocalPipeline.load", load)
    for what, path in without_sound(tmp_path).items():
        with pytest.raises(InvalidRequest) as refused:
            make(tmp_path / "x.mp4", TaskMedia(), audio=path)
        assert [violation.field for violation in refused.value.violations] == ["audio"], what
    with pytest.raises(Loaded):
        make(tmp_path / "x.mp4", TaskMedia(), audio=write_sound(tmp_path / "a.wav", "pcm_s16le"))
    assert not (tmp_path / "x.mp4").exists()


def test_a_silent_clip_has_no_sound_to_keep(files: dict[str, Path], tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    media = TaskMedia(video=files["clip.mp4"], keep_audio=True)
    with ProgressView(console) as view:
        generate_locally(GenerateRequest("a", tmp_path / "x.mp4", steps=1, seed=1, size="320x180", media=media), view)
    assert not probe(tmp_path / "x.mp4").has_audio
    assert "keep_audio" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_sound_of_the_source_is_kept(files: dict[str, Path], tmp_path: Path) -> None:
    import av

    silent, loud = files["clip.mp4"], tmp_path / "loud.mp4"
    tone = tmp_path / "tone.wav"
    with av.open(str(tone), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        wave = (8000 * np.sin(np.arange(48_000) * 0.2)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    make(loud, TaskMedia(video=silent), audio=tone)
    assert probe(loud).has_audio
    kept, muted = tmp_path / "kept.mp4", tmp_path / "muted.mp4"
    make(kept, TaskMedia(video=loud, keep_audio=True))
    make(muted, TaskMedia(video=loud))
    assert probe(kept).has_audio
    assert not probe(muted).has_audio
