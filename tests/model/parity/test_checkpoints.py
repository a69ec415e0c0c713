"""Parity from a checkpoint directory alone: card, weights, conditioner and sampler as the service loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.random_checkpoints import write_a14b, write_i2v, write_t2v, write_ti2v, write_vace
from tests.model.parity.harness import NEGATIVE, PROMPT, denoise, error, picture, pil, spec_of, theirs
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_autoencoder, load_denoiser, load_text_encoder
from zoetrope.model.conditioning.load import load_conditioner
from zoetrope.model.denoising.guidance import uses_negative
from zoetrope.model.media.inputs import Inputs, Picture
from zoetrope.model.request.tasks import FirstLastFrame, ImageToVideo, ReferenceToVideo, Task, TextToVideo

FIRST, LAST = picture(1, 60, 40), picture(2, 72, 48)  # of the clip's ratio: diffusers stretches all others
ONE, BOTH = ImageToVideo(prompt=PROMPT, image="1"), FirstLastFrame(prompt=PROMPT, first_frame="1", last_frame="2")
TEXT, REFER = TextToVideo(prompt=PROMPT), ReferenceToVideo(prompt=PROMPT, references=("1",))
GIVEN = {"image": pil(FIRST)}
CASES: dict[str, tuple[Callable[[Path], Any], Task, Inputs, dict[str, Any]]] = {
    "t2v": (write_t2v, TEXT, Inputs(), {}),
    "t2v-a14b": (write_a14b, TEXT, Inputs(), {}),
    "i2v-a14b": (lambda d: write_i2v(d, experts=True), ONE, Inputs(Picture(FIRST)), GIVEN),
    "i2v-clip": (lambda d: write_i2v(d, clip=True), ONE, Inputs(Picture(FIRST)), GIVEN),
    "flf2v": (
        lambda d: write_i2v(d, clip=True, last=True),
        BOTH,
        Inputs(Picture(FIRST), Picture(LAST)),
        {**GIVEN, "last_image": pil(LAST)},
    ),
    "ti2v": (write_ti2v, ONE, Inputs(Picture(FIRST)), GIVEN),
    "vace": (write_vace, REFER, Inputs(references=(Picture(LAST),)), {"reference_images": [pil(LAST)]}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_directory_gives_the_latents_of_diffusers(tmp_path: Path, name: str) -> None:
    make, task, inputs, arguments = CASES[name]
    pipeline = make(tmp_path)
    card, device = find_model(str(tmp_path)), torch.device("cpu")
    assert task.kind in card.tasks
    conditioner = load_conditioner(card, load_autoencoder(card, device), device)
    assert set(card.tasks) <= set(conditioner.kinds())
    spec = spec_of(task)
    assert uses_negative("cfg", spec.guidance)
    with torch.inference_mode():
        positive, negative = load_text_encoder(card, device).encode([conditioner.prompt(spec), NEGATIVE])
        conditions = conditioner.condition(spec, inputs, positive, negative)
    result = denoise(load_denoiser(card, device), spec, conditions)
    expected = theirs(pipeline, **arguments)
    assert error(result, expected[:, expected.shape[1] - result.shape[1] :]) <= 1e-5
