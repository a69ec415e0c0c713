"""`zoetrope generate --local --model DIR --latents-out FILE` gives the latents of diffusers' own pipelines."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from tests.fixtures.random_checkpoints import write_a14b, write_i2v, write_t2v, write_ti2v, write_vace
from tests.model.parity.harness import FRAMES, HEIGHT, NEGATIVE, PROMPT, SEED, STEPS, WIDTH, error, picture, pil, theirs
from zoetrope.serving.cli.generate_request import GenerateRequest, TaskMedia
from zoetrope.serving.cli.local import generate_locally
from zoetrope.serving.cli.progress import ProgressView

FIRST, LAST = picture(1, 60, 40), picture(2, 72, 48)  # of the clip's ratio: diffusers stretches all others
CASES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], dict[str, Any]]] = {
    "t2v": (write_t2v, (), {}),
    "t2v-a14b": (write_a14b, (), {}),
    "i2v-clip": (lambda d: write_i2v(d, clip=True), ("image",), {"image": pil(FIRST)}),
    "flf2v": (
        lambda d: write_i2v(d, clip=True, last=True),
        ("image", "last_image"),
        {"image": pil(FIRST), "last_image": pil(LAST)},
    ),
    "ti2v": (write_ti2v, ("image",), {"image": pil(FIRST)}),
    "vace": (write_vace, ("references",), {"reference_images": [pil(LAST)]}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_command_gives_the_latents_of_diffusers(tmp_path: Path, name: str) -> None:
    make, media, arguments = CASES[name]
    pipeline = make(tmp_path / name)
    files = {"image": tmp_path / "first.png", "last_image": tmp_path / "last.png"}
    Image.fromarray(FIRST).save(files["image"])
    Image.fromarray(LAST).save(files["last_image"])
    given: dict[str, Any] = {field: files[field] for field in media if field in files}
    if "references" in media:
        given["references"] = (files["last_image"],)
    order = GenerateRequest(
        PROMPT,
        tmp_path / "out.mkv",
        latents_out=tmp_path / "out.safetensors",
        model=str(tmp_path / name),
        size=f"{WIDTH}x{HEIGHT}",
        frames=FRAMES,
        steps=STEPS,
        guidance=4.0,
        negative=NEGATIVE,
        seed=SEED,
        media=TaskMedia(**given),
    )
    with ProgressView(Console(file=io.StringIO())) as view:
        generate_locally(order, view)
    latents = load_file(tmp_path / "out.safetensors")["latents"]
    expected = theirs(pipeline, **arguments)
    assert error(latents, expected[:, expected.shape[1] - latents.shape[1] :]) <= 1e-5
