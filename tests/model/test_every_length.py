"""Every task at every length that a model allows, chained where it takes several segments, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.random_checkpoints import write_i2v, write_t2v, write_ti2v, write_vace
from tests.model.parity.harness import picture
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.pipeline import LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import (
    EditVideo,
    FirstLastFrame,
    GridToVideo,
    ImageToVideo,
    InvalidRequest,
    MediaInfo,
    ModelCard,
    ReferenceToVideo,
    Task,
    TextToVideo,
    VideoRequest,
)

STILL = Picture(picture(1, 40, 24))
OTHER = Picture(picture(2, 30, 50))
SHORT = Clip(np.stack([picture(i, 32, 24) for i in range(3)]), 8)
SOURCE = Clip(np.stack([picture(i, 40, 24) for i in range(81)]), 8)
SECONDS = range(1, 16)
LONG = {"video": MediaInfo("clip", 40, 24, 80, 8)}  # as long as a clip to edit may be

Given = tuple[Task, Inputs]
GIVEN: dict[str, Given] = {
    "words": (TextToVideo(prompt="a red circle"), Inputs()),
    "picture": (ImageToVideo(image="1"), Inputs(first=STILL)),
    "loop": (ImageToVideo(image="1", loop=True), Inputs(first=STILL, last=STILL)),
    "clip": (ImageToVideo(clip="1"), Inputs(before=SHORT)),
    "clip and last": (ImageToVideo(clip="1", last_frame="2"), Inputs(before=SHORT, last=OTHER)),
    "first and last": (FirstLastFrame(first_frame="1", last_frame="2"), Inputs(first=STILL, last=OTHER)),
    "grid": (GridToVideo(panels=("1",) * 9), Inputs(panels=(STILL, OTHER, OTHER) * 3)),
    "reference": (ReferenceToVideo(prompt="image 1", references=("1",)), Inputs(references=(OTHER,))),
    "reference and first": (
        ReferenceToVideo(prompt="image 1", references=("1", "2"), first_frame="3"),
        Inputs(references=(OTHER, STILL), first=STILL),
    ),
    "reference clip": (ReferenceToVideo(prompt="video 1", references=("1",)), Inputs(references=(SHORT,))),
    "edit": (EditVideo(prompt="make it blue", video="1"), Inputs(video=SOURCE)),
    "edit of a clip that is too short": (EditVideo(prompt="make it blue", video="1"), Inputs(video=SHORT)),
    "edit with a reference": (
        EditVideo(prompt="make it image 1", video="1", references=("2",)),
        Inputs(video=SOURCE, references=(OTHER,)),
    ),
}


def spec_of(card: ModelCard, task: Task, size: str, frames: int) -> VideoSpec:
    media = LONG if isinstance(task, EditVideo) else {}
    return resolve(VideoRequest(task=task, size=size, frames=frames, steps=1, guidance=1.0, seed=3), card, 0, media)


def check_conditions(pipeline: LocalPipeline, spec: VideoSpec, inputs: Inputs) -> None:
    """The network takes the conditions of the first segment, of one in the middle and of the last one."""
    last = len(spec.spans) - 1
    for index in sorted({0, min(1, last), last}):
        before = Clip(SOURCE.frames[: spec.spans[index].known], spec.fps) if index else None
        conditions = condition_span(pipeline.text, pipeline.conditioner, spec, inputs, index, before)
        pipeline.denoiser.check(pipeline.denoiser.start(segment_of(spec, "0", index), conditions))


def check_clip(pipeline: LocalPipeline, spec: VideoSpec, inputs: Inputs) -> None:
    """It is made, as long as asked for."""
    latents = pipeline.run(spec, inputs)
    assert len(latents) == len(spec.spans)
    assert all(bool(part.isfinite().all()) for part in latents)
    frames = sum(len(chunk) for chunk in pipeline.decode_spans(spec, latents))
    assert frames == spec.model_frames >= spec.frames


@pytest.fixture(scope="module")
def nano() -> LocalPipeline:
    return LocalPipeline.load(find_model("nano"))


def specs_of_nano(what: str) -> Iterator[VideoSpec]:
    """From 1 s to as long as it may be."""
    card, task = find_model("nano"), GIVEN[what][0]
    for seconds in SECONDS:
        if not isinstance(task, EditVideo) or seconds <= LONG["video"].seconds:
            yield spec_of(card, task, "32x24", seconds * card.fps)


@pytest.mark.parametrize("what", GIVEN)
def test_nano_takes_every_task_at_every_length(what: str, nano: LocalPipeline) -> None:
    for spec in specs_of_nano(what):
        check_conditions(nano, spec, GIVEN[what][1])


@pytest.mark.parametrize("what", GIVEN)
def test_nano_makes_every_task_of_three_segments(what: str, nano: LocalPipeline) -> None:
    check_clip(nano, spec_of(find_model("nano"), GIVEN[what][0], "32x24", 40), GIVEN[what][1])


@pytest.mark.long
@pytest.mark.parametrize("what", GIVEN)
def test_nano_makes_every_task_at_every_length(what: str, nano: LocalPipeline) -> None:
    for spec in specs_of_nano(what):
        check_clip(nano, spec, GIVEN[what][1])


def test_only_the_last_segment_ends_with_the_last_picture(nano: LocalPipeline) -> None:
    task, inputs = GIVEN["first and last"]
    spec = spec_of(find_model("nano"), task, "32x24", 40)
    parts = [condition_span(nano.text, nano.conditioner, spec, inputs, i, SHORT if i else None) for i in range(3)]
    assert [span.known for span in spec.spans] == [0, 5, 5]
    assert [part.ending is not None for part in parts] == [False, False, True]
    assert all(part.known is not None for part in parts)


@cache
def tiny(family: str, directory: Path) -> tuple[LocalPipeline, ModelCard]:
    """A small checkpoint of a family whose segments are nine frames long."""
    make: dict[str, Callable[[Path], object]] = {
        "bernini": write_t2v,
        "first_latent": write_ti2v,
        "channels": lambda path: write_i2v(path, experts=True),
        "clip_tokens": lambda path: write_i2v(path, clip=True),
        "vace": write_vace,
    }
    path = directory / ("bernini-r" if family == "bernini" else family)
    make[family](path)
    card = find_model(str(path))
    assert card.overlap_frames
    return LocalPipeline.load(card), replace(card, segment_frames=9)


CASES = {
    "bernini": ("words", "grid", "reference", "reference and first", "reference clip", "edit", "edit with a reference"),
    "first_latent": ("words", "picture", "clip"),
    "channels": ("picture", "loop", "clip", "clip and last", "first and last"),
    "clip_tokens": ("picture", "loop", "clip", "clip and last"),
    "vace": tuple(what for what in GIVEN if what != "reference clip"),
}


@pytest.mark.parametrize("family", CASES)
def test_other_families_take_their_tasks_at_every_length(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pipeline, card = tiny(family, tmp_path_factory.getbasetemp())
    assert {GIVEN[what][0].kind for what in CASES[family]} == set(card.tasks) == set(pipeline.conditioner.kinds())
    for what in CASES[family]:
        for frames in (5, 12):  # one segment, two of them
            check_conditions(pipeline, spec_of(card, GIVEN[what][0], "32x32", frames), GIVEN[what][1])


@pytest.mark.parametrize("what", ["loop", "clip and last", "reference clip"])
def test_what_a_family_cannot_take_is_refused_before(what: str) -> None:
    """Not by its conditioner, when the job is under way."""
    task, inputs = GIVEN[what]
    nano = find_model("nano")
    pictures_only = bool(inputs.references)
    card = replace(nano, reference_clips=False) if pictures_only else replace(nano, ends_with_frame=False)
    media = {"references.0": MediaInfo("clip", 32, 24, 24, 8)} if inputs.references else {}
    with pytest.raises(InvalidRequest, match=r"cannot end with|takes only pictures"):
        resolve(VideoRequest(task=task), card, 0, media)


@pytest.mark.long
@pytest.mark.parametrize("family", CASES)
def test_other_families_make_their_tasks_at_every_length(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pipeline, card = tiny(family, tmp_path_factory.getbasetemp())
    for what in CASES[family]:
        for frames in (2, 9, 13, 18, 22):
            check_clip(pipeline, spec_of(card, GIVEN[what][0], "32x32", frames), GIVEN[what][1])
