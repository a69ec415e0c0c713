"""Files become exactly what nano was trained on, and what else a task may bring has its place."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder, LinearConfig
from zoetrope.model.conditioning.streams import StreamsConditioner
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.media.resize import Frames
from zoetrope.model.nano.batches import conditions_of
from zoetrope.model.nano.samples import EditKind, Samples, TaskKind, draw
from zoetrope.model.request.specs import SegmentFrames, VideoSpec
from zoetrope.model.request.tasks import (
    EditVideo,
    FirstLastFrame,
    GridToVideo,
    ImageToVideo,
    InvalidRequest,
    ReferenceToVideo,
    Task,
    TextToVideo,
)

WIDTH, HEIGHT, FRAMES, Z = 32, 24, 9, 6
STILL = Picture(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
TASKS: dict[TaskKind, Task] = {
    "text_to_video": TextToVideo(prompt="p"),
    "image_to_video": ImageToVideo(image="1"),
    "first_last_frame": FirstLastFrame(first_frame="1", last_frame="2"),
    "grid_to_video": GridToVideo(panels=("sheet",)),
    "reference_to_video": ReferenceToVideo(prompt="p", references=("1", "2")),
    "edit_video": EditVideo(prompt="p", video="clip", references=("1",)),
}


def spec_of(task: Task) -> VideoSpec:
    return VideoSpec(
        model="nano",
        task=task,
        width=WIDTH,
        height=HEIGHT,
        native_width=WIDTH,
        native_height=HEIGHT,
        frames=FRAMES,
        fps=8,
        model_frames=FRAMES,
        latent_shape=(Z, 3, HEIGHT // 4, WIDTH // 4),
        temporal=4,
        spans=(SegmentFrames(0, FRAMES, 0),),
        steps=4,
        guidance=3.0,
        guidance_low=None,
        seed=0,
        container="mp4",
        keep_latents=False,
    )


@pytest.fixture(scope="module")
def autoencoder() -> LinearAutoencoder:
    torch.manual_seed(0)
    size = 3 * 4 * 4 * 4
    basis = torch.linalg.qr(torch.randn(size, Z)).Q
    config = LinearConfig(z_dim=Z, scale_factor_spatial=4)
    return LinearAutoencoder(config, torch.zeros(size), basis, torch.ones(Z), torch.zeros(5 * Z + 1, size))


def as_bytes(pixels: torch.Tensor) -> Frames:
    """``[3, ...]`` in -1..1 -> uint8 ``[..., 3]``."""
    return ((pixels + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).contiguous().numpy()


def rounded(samples: Samples) -> Samples:
    """With the pixels that bytes can hold."""
    changes: dict[str, Any] = {}
    for name in ("clips", "first_frame", "last_frame", "grid", "references", "source"):
        value = getattr(samples, name)
        if value is not None:
            changes[name] = ((value + 1) * 127.5).round() / 127.5 - 1
    return replace(samples, **changes)


def inputs_of(samples: Samples) -> Inputs:
    """The media of the first row, as they come out of files."""

    def picture(pixels: torch.Tensor | None) -> Picture | None:
        return None if pixels is None else Picture(as_bytes(pixels))

    references = () if samples.references is None else tuple(Picture(as_bytes(r)) for r in samples.references[0])
    return Inputs(
        first=picture(None if samples.first_frame is None else samples.first_frame[0]),
        last=picture(None if samples.last_frame is None else samples.last_frame[0]),
        panels=() if samples.grid is None else (Picture(as_bytes(samples.grid[0])),),
        references=references,
        video=None if samples.source is None else Clip(as_bytes(samples.source[0]), 8),
    )


def assert_same(ours: Conditions, trained: Conditions) -> None:
    assert [s.source_id for s in ours.sources] == [s.source_id for s in trained.sources]
    latents, text = torch.randn(Z, 3, HEIGHT // 4, WIDTH // 4), ours.positive
    mine, theirs = (c.sequence(latents, 321.0, text) for c in (ours, trained))
    assert len(mine.streams) == len(theirs.streams)
    for a, b in zip(mine.streams, theirs.streams, strict=True):
        assert a.source_id == b.source_id
        assert torch.equal(a.timesteps, b.timesteps)
        assert torch.allclose(a.latents, b.latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", list(TASKS))
def test_files_are_conditioned_as_in_training(kind: TaskKind, autoencoder: LinearAutoencoder) -> None:
    generator = torch.Generator().manual_seed(5)
    edit: EditKind | None = "edit_object" if kind == "edit_video" else None
    samples = rounded(draw(kind, 1, HEIGHT, WIDTH, FRAMES, generator, random.Random(5), edit=edit, references=2))
    text = torch.randn(1, 4, 8, generator=generator)
    clean = autoencoder.encode_batch(samples.clips)
    (trained,) = conditions_of(samples, clean, text, autoencoder.encode_batch)
    ours = StreamsConditioner(autoencoder).condition(spec_of(TASKS[kind]), inputs_of(samples), text[0], None)
    assert_same(ours, trained)
    assert len(ours.sources) == {"grid_to_video": 1, "reference_to_video": 2, "edit_video": 2}.get(kind, 0)


def test_an_overlap_is_conditioned_as_in_training(autoencoder: LinearAutoencoder) -> None:
    generator = torch.Generator().manual_seed(6)
    samples = rounded(draw("image_to_video", 1, HEIGHT, WIDTH, FRAMES, generator, random.Random(6)))
    text = torch.randn(1, 4, 8, generator=generator)
    clean = autoencoder.encode_batch(samples.clips)
    (trained,) = conditions_of(samples, clean, text, autoencoder.encode_batch, overlap=2)
    before = Clip(as_bytes(samples.clips[0, :, :5]), 8)
    task = ImageToVideo(clip="before")
    ours = StreamsConditioner(autoencoder).condition(spec_of(task), Inputs(before=before), text[0], None)
    assert_same(ours, trained)
    assert ours.known_frames is not None and ours.known_frames.tolist() == [True, True, False]


def test_clips_that_are_referred_to_come_before_pictures(autoencoder: LinearAutoencoder) -> None:
    still = Picture(np.zeros((50, 30, 3), np.uint8))
    clip = Clip(np.full((7, 10, 20, 3), 200, np.uint8), 8)
    inputs = Inputs(references=(still, clip))
    conditions = StreamsConditioner(autoencoder).condition(
        spec_of(TASKS["reference_to_video"]), inputs, torch.zeros(2, 8), None
    )
    shapes = [(s.source_id, s.video, tuple(s.latents.shape[1:])) for s in conditions.sources]
    assert shapes == [(1, True, (2, HEIGHT // 4, WIDTH // 4)), (2, False, (1, HEIGHT // 4, HEIGHT // 4))]


def test_a_source_clip_is_as_long_as_the_result(autoencoder: LinearAutoencoder) -> None:
    for frames in (3, 20):
        clip = Clip(np.zeros((frames, HEIGHT, WIDTH, 3), np.uint8), 8)
        conditions = StreamsConditioner(autoencoder).condition(
            spec_of(TASKS["edit_video"]), Inputs(video=clip), torch.zeros(2, 8), None
        )
        assert conditions.sources[0].latents.shape[1] == 3


@pytest.mark.parametrize(
    ("kind", "given", "field"),
    [
        ("image_to_video", Inputs(), "image"),
        ("first_last_frame", Inputs(last=STILL), "first_frame"),
        ("first_last_frame", Inputs(first=STILL), "last_frame"),
        ("grid_to_video", Inputs(), "panels"),
        ("reference_to_video", Inputs(), "references"),
        ("edit_video", Inputs(), "video"),
    ],
)
def test_a_missing_file_is_named(kind: TaskKind, given: Inputs, field: str, autoencoder: LinearAutoencoder) -> None:
    with pytest.raises(InvalidRequest, match=f"task.{field}: is missing"):
        StreamsConditioner(autoencoder).condition(spec_of(TASKS[kind]), given, torch.zeros(2, 8), None)


def test_a_segment_before_the_last_needs_no_last_frame(autoencoder: LinearAutoencoder) -> None:
    given = Inputs(before=Clip(STILL.pixels[None], 8), goes_on=True)
    conditions = StreamsConditioner(autoencoder).condition(
        spec_of(TASKS["first_last_frame"]), given, torch.zeros(2, 8), None
    )
    assert conditions.known is not None and conditions.ending is None
