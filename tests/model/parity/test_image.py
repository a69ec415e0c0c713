"""Image to video gives the latents of diffusers' WanImageToVideoPipeline, in all the ways that a frame can enter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.random_checkpoints import write_i2v, write_ti2v
from tests.model.parity.harness import (
    FRAMES,
    HEIGHT,
    PROMPT,
    WIDTH,
    autoencoder_of,
    error,
    ours,
    picture,
    pil,
    spec_of,
    texts,
    theirs,
    to_bfloat16,
)
from zoetrope.model.codecs.image_encoder import ImageEncoder
from zoetrope.model.conditioning.channels import ChannelsConditioner, frame_mask
from zoetrope.model.conditioning.first_latent import FirstLatentConditioner
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.request.tasks import FirstLastFrame, ImageToVideo, InvalidRequest, TextToVideo

FIRST, LAST = picture(1, 60, 40), picture(2, 72, 48)  # of the clip's ratio: diffusers stretches all others
ONE = ImageToVideo(prompt=PROMPT, image="first")
BOTH = FirstLastFrame(prompt=PROMPT, first_frame="first", last_frame="last")


def conditioner_of(pipeline: Any, directory: Path) -> ChannelsConditioner:
    encoder = None
    if pipeline.image_encoder is not None:
        encoder = ImageEncoder.load(directory, torch.device("cpu"))
    config = TransformerConfig.model_validate(dict(pipeline.transformer.config))
    return ChannelsConditioner(autoencoder_of(pipeline), config, encoder)


@pytest.mark.parametrize("last", [False, True], ids=["first", "first-last"])
@pytest.mark.parametrize("clip", [False, True], ids=["plain", "clip"])
def test_frames_as_channels(tmp_path: Path, clip: bool, last: bool) -> None:
    pipeline = write_i2v(tmp_path, clip=clip, last=last)
    conditioner = conditioner_of(pipeline, tmp_path)
    assert conditioner.kinds() == (
        (("first_last_frame",) if last else ("image_to_video",)) if clip else ("image_to_video", "first_last_frame")
    )
    inputs = Inputs(first=Picture(FIRST), last=Picture(LAST) if last else None)
    result = ours(pipeline, tmp_path, conditioner, spec_of(BOTH if last else ONE), inputs)
    expected = theirs(pipeline, image=pil(FIRST), last_image=pil(LAST) if last else None)
    assert error(result, expected) <= 1e-5


def test_two_noise_experts_with_scales_of_their_own(tmp_path: Path) -> None:
    pipeline = write_i2v(tmp_path, experts=True)
    result = ours(
        pipeline, tmp_path, conditioner_of(pipeline, tmp_path), spec_of(ONE, 3.5, 2.0), Inputs(Picture(FIRST))
    )
    expected = theirs(pipeline, image=pil(FIRST), guidance_scale=3.5, guidance_scale_2=2.0)
    assert error(result, expected) <= 1e-5


def test_a_known_first_latent(tmp_path: Path) -> None:
    pipeline = write_ti2v(tmp_path)
    conditioner = FirstLatentConditioner(autoencoder_of(pipeline))
    result = ours(pipeline, tmp_path, conditioner, spec_of(ONE), Inputs(Picture(FIRST)))
    assert error(result, theirs(pipeline, image=pil(FIRST))) <= 1e-5


def test_bfloat16_is_as_good_as_that_of_diffusers(tmp_path: Path) -> None:
    pipeline = write_i2v(tmp_path, clip=True, last=True)
    arguments = {"image": pil(FIRST), "last_image": pil(LAST)}
    exact = theirs(pipeline, **arguments)
    to_bfloat16(pipeline)
    limit = error(theirs(pipeline, **arguments), exact)
    inputs = Inputs(first=Picture(FIRST), last=Picture(LAST))
    result = error(ours(pipeline, tmp_path, conditioner_of(pipeline, tmp_path), spec_of(BOTH), inputs), exact)
    assert result <= min(2e-2, 2 * limit)


def test_bfloat16_with_a_level_for_each_token(tmp_path: Path) -> None:
    pipeline = write_ti2v(tmp_path)
    exact = theirs(pipeline, image=pil(FIRST))
    to_bfloat16(pipeline)
    limit = error(theirs(pipeline, image=pil(FIRST)), exact)
    conditioner = FirstLatentConditioner(autoencoder_of(pipeline))
    result = error(ours(pipeline, tmp_path, conditioner, spec_of(ONE), Inputs(Picture(FIRST))), exact)
    assert result <= min(2e-2, 2 * limit)


def test_a_clip_goes_on_from_the_frames_of_another(tmp_path: Path) -> None:
    """Five frames are two latent frames, which the result has as they are; odd frames in front are left out."""
    pipeline = write_ti2v(tmp_path)
    autoencoder = autoencoder_of(pipeline)
    frames = torch.stack([torch.from_numpy(picture(s, WIDTH, HEIGHT)) for s in range(7)]).numpy()
    inputs = Inputs(before=Clip(frames, 16))
    result = ours(pipeline, tmp_path, FirstLatentConditioner(autoencoder), spec_of(ONE), inputs)
    known = autoencoder.encode(torch.from_numpy(frames[-5:]).permute(3, 0, 1, 2).float() / 127.5 - 1)
    assert torch.allclose(result[:, :2], known, rtol=0, atol=1e-5)
    assert result.shape[1] == 3


def test_channels_hold_the_frames_of_a_clip_that_goes_on(tmp_path: Path) -> None:
    pipeline = write_i2v(tmp_path)
    frames = torch.stack([torch.from_numpy(picture(s, WIDTH, HEIGHT)) for s in range(5)]).numpy()
    conditions = conditioner_of(pipeline, tmp_path).condition(
        spec_of(ONE), Inputs(before=Clip(frames, 16)), *texts(pipeline)
    )
    assert conditions.channels is not None
    assert conditions.channels[:4, :, 0, 0].T.tolist() == [[1] * 4, [1] * 4, [0] * 4]


def test_the_mask_of_the_last_frame_is_its_own_channel() -> None:
    given = torch.zeros(FRAMES, dtype=torch.bool)
    given[[0, -1]] = True
    assert frame_mask(given, 4).T.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_what_a_checkpoint_cannot_do_is_refused(tmp_path: Path) -> None:
    pipeline = write_i2v(tmp_path)
    conditioner = conditioner_of(pipeline, tmp_path)
    both = texts(pipeline)
    with pytest.raises(InvalidRequest, match="text_to_video is not served by tiny"):
        conditioner.condition(spec_of(TextToVideo(prompt=PROMPT)), Inputs(), *both)
    with pytest.raises(InvalidRequest, match="image: is missing"):
        conditioner.condition(spec_of(ONE), Inputs(), *both)
    first_latent = FirstLatentConditioner(autoencoder_of(pipeline))
    with pytest.raises(InvalidRequest, match="image: is missing"):
        first_latent.condition(spec_of(ONE), Inputs(), *both)
    with pytest.raises(InvalidRequest, match="last_frame: is given"):
        first_latent.condition(spec_of(ONE), Inputs(first=Picture(FIRST), last=Picture(LAST)), *both)
