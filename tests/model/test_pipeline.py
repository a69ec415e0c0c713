"""The local pipeline gives what diffusers' own pipeline gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_text_encoder, load_transformer
from zoetrope.model.conditioning.streams import StreamsConditioner
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span, tail
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WanPipeline]:
    directory = tmp_path_factory.mktemp("tiny-wan")
    return directory, write_t2v(directory)


def spec_for(directory: Path, **changes: object) -> VideoSpec:
    card = find_model(str(directory))
    fields = {"size": "48x32", "frames": 9, "steps": 4, "guidance": 4.0, "seed": 7, **changes}
    return resolve(VideoRequest(task=TextToVideo(prompt=PROMPT, negative_prompt="blue"), **fields), card, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_latents_and_frames_equal_those_of_diffusers(checkpoint: tuple[Path, WanPipeline], guidance: float) -> None:
    directory, theirs = checkpoint
    spec = spec_for(directory, guidance=guidance)
    ours = LocalPipeline.load(find_model(str(directory)))
    (latents,) = ours.run(spec)

    def expected(output_type: str) -> torch.Tensor:
        out = theirs(
            prompt=PROMPT,
            negative_prompt="blue",
            height=32,
            width=48,
            num_frames=9,
            num_inference_steps=4,
            guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type=output_type,
            max_sequence_length=512,
        ).frames[0]
        return torch.as_tensor(out)

    assert torch.allclose(latents, expected("latent"), rtol=0, atol=1e-5)
    frames = np.concatenate(list(ours.decode(latents)))
    assert frames.shape == (9, 32, 48, 3)
    assert np.abs(frames / 255.0 - expected("np").numpy()).max() <= 1 / 255


def test_a_clip_does_not_depend_on_its_batch_mates(checkpoint: tuple[Path, WanPipeline]) -> None:
    directory, _ = checkpoint
    pipeline = LocalPipeline.load(find_model(str(directory)))
    one = spec_for(directory)
    others = [spec_for(directory, size="64x64", steps=6, frames=5), spec_for(directory, guidance=1.0, seed=8)]
    seen: list[tuple[int, int]] = []
    batch = pipeline.run_batch([one, *others], lambda step, steps: seen.append((step, steps)))
    assert torch.allclose(batch[0], pipeline.run(one)[0], rtol=0, atol=1e-5)
    assert seen == [(step, 6) for step in range(1, 7)]


def test_a_long_clip_is_chained_and_its_seams_are_not_shown_twice(checkpoint: tuple[Path, WanPipeline]) -> None:
    directory, _ = checkpoint
    pipeline = LocalPipeline.load(find_model(str(directory)))
    pipeline.conditioner = StreamsConditioner(pipeline.autoencoder)
    card = replace(find_model(str(directory)), segment_frames=9, overlap_frames=5, max_frames=33)
    request = VideoRequest(task=TextToVideo(prompt=PROMPT), size="32x32", frames=16, steps=2, seed=3)
    spec = resolve(request, card, 0)
    assert [(s.first, s.frames, s.known) for s in spec.spans] == [(0, 9, 0), (4, 9, 5), (8, 9, 5)]
    seen: list[tuple[int, int]] = []
    parts = pipeline.run(spec, on_step=lambda step, steps: seen.append((step, steps)))
    assert seen == [(step, 6) for step in range(1, 7)]
    frames = np.concatenate(list(pipeline.decode_spans(spec, parts)))
    assert frames.shape == (17, 32, 32, 3)
    alone = [np.concatenate(list(pipeline.decode(part))) for part in parts]
    assert np.array_equal(frames, np.concatenate([alone[0], alone[1][5:], alone[2][5:]]))
    before = tail(pipeline.autoencoder, spec, parts[0], 5)
    assert np.array_equal(before.frames, alone[0][-5:])
    given = condition_span(pipeline.text, pipeline.conditioner, spec, NOTHING, 1, before)
    assert given.known_frames is not None
    assert given.known_frames.tolist() == [True, True, False]
    assert given.known is not None
    assert torch.equal(parts[1][:, :2], given.known[:, :2]), "the overlap is that of the segment before"
    with pytest.raises(ValueError, match="several segments"):
        pipeline.run_batch([spec])


def test_the_same_seed_gives_the_same_bytes(checkpoint: tuple[Path, WanPipeline]) -> None:
    directory, _ = checkpoint
    pipeline = LocalPipeline.load(find_model(str(directory)))
    assert torch.equal(pipeline.run(spec_for(directory))[0], pipeline.run(spec_for(directory))[0])
    assert not torch.equal(pipeline.run(spec_for(directory))[0], pipeline.run(spec_for(directory, seed=8))[0])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", b"\xff" * 64),
        ("vae/diffusion_pytorch_model.safetensors", None),
        ("text_encoder/model.safetensors", b""),
        ("transformer/config.json", b"{"),
        ("model_index.json", None),
        ("scheduler/scheduler_config.json", None),
    ],
)
def test_a_damaged_directory_is_refused_by_the_name_of_the_file(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    write_t2v(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=file):
        check_files(find_model(str(tmp_path)))


def test_weights_that_lack_a_key_or_have_another_shape_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_t2v(tmp_path)
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    card = find_model(str(tmp_path))
    save_file({k: v for k, v in tensors.items() if k != "proj_out.bias"}, path)
    with pytest.raises(ModelError, match=r"proj_out\.bias"):
        load_transformer(card, torch.device("cpu"))
    save_file({**tensors, "proj_out.bias": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"proj_out\.bias has shape \(3,\)"):
        load_transformer(card, torch.device("cpu"))
    text = tmp_path / "text_encoder" / "model.safetensors"
    save_file({k: v for k, v in load_file(text).items() if "block.1" not in k}, text)
    with pytest.raises(ModelError, match=r"encoder\.block\.1"):
        load_text_encoder(card, torch.device("cpu"))


def test_another_family_is_refused(tmp_path: Path) -> None:
    write_t2v(tmp_path)
    path = tmp_path / "transformer" / "config.json"
    path.write_text(path.read_text().replace("WanTransformer3DModel", "FluxTransformer2DModel"))
    with pytest.raises(ModelError, match="FluxTransformer2DModel"):
        find_model(str(tmp_path))


def test_a_second_transformer_without_its_files_is_refused(tmp_path: Path) -> None:
    write_t2v(tmp_path)
    (tmp_path / "transformer_2").mkdir()
    with pytest.raises(ModelError, match=r"transformer_2: is there, but model_index\.json does not name it"):
        find_model(str(tmp_path))
    index = tmp_path / "model_index.json"
    named = {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | named))
    with pytest.raises(ModelError, match=r"transformer_2/config\.json: the file is missing"):
        find_model(str(tmp_path))


def test_a_name_that_is_neither_preset_nor_directory_is_refused() -> None:
    with pytest.raises(ModelError, match="neither a preset"):
        find_model("wan9")


def test_text_embeddings_do_not_depend_on_the_other_prompts_of_a_call(checkpoint: tuple[Path, WanPipeline]) -> None:
    directory, _ = checkpoint
    text = load_text_encoder(replace(find_model(str(directory)), max_text_tokens=16), torch.device("cpu"))
    both = text.encode([PROMPT, "a"])
    assert torch.allclose(both[0], text.encode([PROMPT])[0], rtol=0, atol=1e-6)
    assert both.shape == (2, 16, 32)
    assert bool((both[1, 2:] == 0).all())
