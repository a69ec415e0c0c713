"""Bernini-R's streams: numbers, sizes, noise level, guidance and prefix of each task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.fixtures.random_checkpoints import small_vae
from tests.model.parity.harness import FRAMES, HEIGHT, WIDTH, picture, spec_of
from zoetrope.model.codecs.autoencoder import WanAutoencoder
from zoetrope.model.conditioning.bernini import BerniniConditioner
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.request.tasks import EditVideo, FirstLastFrame, InvalidRequest, ReferenceToVideo, TextToVideo

TEXT = torch.zeros(2, 4)
VIDEO = Clip(np.stack([picture(i, WIDTH, HEIGHT) for i in range(FRAMES)]), 16)


@pytest.fixture(scope="module")
def conditioner() -> BerniniConditioner:
    torch.manual_seed(0)
    return BerniniConditioner(WanAutoencoder(small_vae()))


def test_an_edit_with_references(conditioner: BerniniConditioner) -> None:
    task = EditVideo(prompt="make it blue", video="clip", references=("1",))
    inputs = Inputs(video=VIDEO, references=(Picture(picture(3, 70, 40)),))
    conditions = conditioner.condition(spec_of(task), inputs, TEXT, TEXT)
    assert conditions.guidance == "rv2v"
    assert [(s.source_id, s.video) for s in conditions.sources] == [(1, True), (2, False)]
    assert [tuple(s.latents.shape) for s in conditions.sources] == [(16, 3, 4, 6), (16, 1, 4, 8)]
    sequence = conditions.sequence(torch.zeros(16, 3, 4, 6), 640.0, TEXT)
    assert all(bool((stream.timesteps == 640).all()) for stream in sequence.streams), "sources are as noisy"
    assert len(conditions.sequence(torch.zeros(16, 3, 4, 6), 640.0, TEXT, "videos").streams) == 2
    prompt = "You are a helpful assistant specialized in video editing with reference.make it blue"
    assert conditioner.prompt(spec_of(task)) == prompt


def test_references_count_from_one_and_keep_their_shapes(conditioner: BerniniConditioner) -> None:
    task = ReferenceToVideo(prompt="a cat", references=("1", "2"))
    inputs = Inputs(references=(Picture(picture(1, 1700, 200)), Picture(picture(2, 9, 9))))
    conditions = conditioner.condition(spec_of(task), inputs, TEXT, TEXT)
    assert conditions.guidance == "r2v"
    assert [(s.source_id, tuple(s.latents.shape[2:])) for s in conditions.sources] == [(1, (12, 106)), (2, (2, 2))]


def test_text_alone_is_plain_wan(conditioner: BerniniConditioner) -> None:
    conditions = conditioner.condition(spec_of(TextToVideo(prompt="a cat")), Inputs(), TEXT, TEXT)
    assert conditions.sources == () and conditions.guidance == "t2v"


def test_frames_to_go_on_from_are_known_but_not_clean(conditioner: BerniniConditioner) -> None:
    inputs = Inputs(video=VIDEO, before=Clip(VIDEO.frames[:5], 16))
    conditions = conditioner.condition(spec_of(EditVideo(prompt="p", video="v")), inputs, TEXT, TEXT)
    assert conditions.known_frames is not None and conditions.known_frames.tolist() == [True, True, False]
    assert not conditions.clean_known


def test_what_it_cannot_do_is_refused(conditioner: BerniniConditioner) -> None:
    frames = FirstLastFrame(first_frame="1", last_frame="2")
    with pytest.raises(InvalidRequest, match="first_last_frame is not served"):
        conditioner.condition(spec_of(frames), Inputs(), TEXT, TEXT)
    with pytest.raises(InvalidRequest, match=r"task\.video: is missing"):
        conditioner.condition(spec_of(EditVideo(prompt="p", video="v")), Inputs(), TEXT, TEXT)
