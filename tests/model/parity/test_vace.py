"""VACE gives the latents of diffusers' WanVACEPipeline: references, masks, source clips and known frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fixtures.random_checkpoints import write_vace
from tests.model.parity.harness import (
    FRAMES,
    HEIGHT,
    PROMPT,
    WIDTH,
    autoencoder_of,
    denoise,
    denoiser_of,
    error,
    ours,
    picture,
    pil,
    spec_of,
    texts,
    theirs,
    to_bfloat16,
)
from zoetrope.model.conditioning.vace import VaceConditioner
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.request.tasks import (
    EditVideo,
    FirstLastFrame,
    ImageToVideo,
    InvalidRequest,
    ReferenceToVideo,
    TextToVideo,
)

REFERENCES = [picture(3, 70, 30), picture(4, 33, 64)]
VIDEO = np.stack([picture(10 + i, WIDTH, HEIGHT) for i in range(FRAMES)])
EDIT = EditVideo(prompt=PROMPT, video="clip")
REFER = ReferenceToVideo(prompt=PROMPT, references=("1", "2"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    directory = tmp_path_factory.mktemp("tiny-vace")
    return write_vace(directory), directory


def conditioner_of(pipeline: Any) -> VaceConditioner:
    config = TransformerConfig.model_validate(dict(pipeline.transformer.config))
    return VaceConditioner(autoencoder_of(pipeline), config)


def frames_with(known: dict[int, Image.Image]) -> tuple[list[Image.Image], list[Image.Image]]:
    """A control video and its mask as diffusers' examples make them: gray and white but for the known frames."""
    gray, black, white = (Image.new("RGB", (WIDTH, HEIGHT), (level,) * 3) for level in (128, 0, 255))
    video = [known.get(i, gray) for i in range(FRAMES)]
    return video, [black if i in known else white for i in range(FRAMES)]


def test_text_alone(tiny: tuple[Any, Path]) -> None:
    pipeline, directory = tiny
    result = ours(pipeline, directory, conditioner_of(pipeline), spec_of(TextToVideo(prompt=PROMPT)), Inputs())
    assert error(result, theirs(pipeline)) <= 1e-5


def test_references_are_cut_off_the_result(tiny: tuple[Any, Path]) -> None:
    pipeline, directory = tiny
    inputs = Inputs(references=tuple(Picture(r) for r in REFERENCES))
    result = ours(pipeline, directory, conditioner_of(pipeline), spec_of(REFER), inputs)
    expected = theirs(pipeline, reference_images=[pil(r) for r in REFERENCES])
    assert expected.shape[1] == result.shape[1] + 2
    assert error(result, expected[:, 2:]) <= 1e-5


def test_a_source_clip_with_a_mask_and_a_reference(tiny: tuple[Any, Path]) -> None:
    pipeline, directory = tiny
    mask = np.zeros_like(VIDEO)
    mask[:, 5:20, 10:40] = 255
    mask[6:] = 255
    inputs = Inputs(video=Clip(VIDEO, 16), references=(Picture(REFERENCES[0]),))
    conditions = conditioner_of(pipeline).condition(spec_of(EDIT), inputs, *texts(pipeline), mask=mask, scale=0.7)
    result = denoise(denoiser_of(pipeline, directory), spec_of(EDIT), conditions)
    expected = theirs(
        pipeline,
        video=[pil(f) for f in VIDEO],
        mask=[pil(f) for f in mask],
        reference_images=[pil(REFERENCES[0])],
        conditioning_scale=0.7,
    )
    assert error(result, expected[:, 1:]) <= 1e-5


def test_a_source_clip_larger_than_the_result(tiny: tuple[Any, Path]) -> None:
    pipeline, directory = tiny
    large = np.stack([picture(20 + i, 2 * WIDTH, 2 * HEIGHT) for i in range(FRAMES)])
    result = ours(pipeline, directory, conditioner_of(pipeline), spec_of(EDIT), Inputs(video=Clip(large, 16)))
    assert error(result, theirs(pipeline, video=[pil(f) for f in large])) <= 1e-5


@pytest.mark.parametrize("last", [False, True])
def test_known_frames(tiny: tuple[Any, Path], last: bool) -> None:
    pipeline, directory = tiny
    first, end = picture(5, WIDTH, HEIGHT), picture(6, WIDTH, HEIGHT)
    known = {0: pil(first), **({FRAMES - 1: pil(end)} if last else {})}
    video, mask = frames_with(known)
    task = (
        FirstLastFrame(prompt=PROMPT, first_frame="1", last_frame="2")
        if last
        else ImageToVideo(prompt=PROMPT, image="1")
    )
    inputs = Inputs(first=Picture(first), last=Picture(end) if last else None)
    result = ours(pipeline, directory, conditioner_of(pipeline), spec_of(task), inputs)
    assert error(result, theirs(pipeline, video=video, mask=mask)) <= 1e-5


def test_an_edit_goes_on_from_frames_that_are_done(tiny: tuple[Any, Path]) -> None:
    """They take the place of the first frames of the source, and are not to be made."""
    pipeline, directory = tiny
    done = np.stack([picture(30 + i, WIDTH, HEIGHT) for i in range(5)])
    inputs = Inputs(video=Clip(VIDEO, 16), before=Clip(done, 16))
    result = ours(pipeline, directory, conditioner_of(pipeline), spec_of(EDIT), inputs)
    black, white = Image.new("RGB", (WIDTH, HEIGHT)), Image.new("RGB", (WIDTH, HEIGHT), (255,) * 3)
    video = [pil(f) for f in (*done, *VIDEO[5:])]
    assert error(result, theirs(pipeline, video=video, mask=[black] * 5 + [white] * 4)) <= 1e-5


def test_bfloat16_is_as_good_as_that_of_diffusers(tmp_path: Path) -> None:
    pipeline = write_vace(tmp_path)
    inputs = Inputs(references=tuple(Picture(r) for r in REFERENCES))
    arguments = {"reference_images": [pil(r) for r in REFERENCES]}
    exact = theirs(pipeline, **arguments)[:, 2:]
    to_bfloat16(pipeline)
    limit = error(theirs(pipeline, **arguments)[:, 2:], exact)
    result = error(ours(pipeline, tmp_path, conditioner_of(pipeline), spec_of(REFER), inputs), exact)
    assert result <= min(2e-2, 2 * limit)


def test_a_clip_as_reference_is_refused(tiny: tuple[Any, Path]) -> None:
    pipeline, _ = tiny
    inputs = Inputs(references=(Clip(VIDEO, 16),))
    with pytest.raises(InvalidRequest, match=r"references\.0: is a clip"):
        conditioner_of(pipeline).condition(spec_of(REFER), inputs, *texts(pipeline))


def test_hints_need_a_weight_for_each_layer(tiny: tuple[Any, Path]) -> None:
    pipeline, directory = tiny
    network = denoiser_of(pipeline, directory).transformer
    conditions = conditioner_of(pipeline).condition(spec_of(TextToVideo(prompt=PROMPT)), Inputs(), *texts(pipeline))
    sequence = conditions.sequence(torch.zeros(16, 3, 4, 6), 500.0, conditions.positive)
    object.__setattr__(sequence, "hint_scales", (1.0,))
    with pytest.raises(ValueError, match="1 hint scales for 2"):
        network.pack([sequence])
