"""A family whose network is not Wan's goes through every door that Wan's goes through, with its file and one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from tests.model.families.joint import JOINT, RAW, JointBatch, JointConfig, JointTransformer, shapes, write_joint
from zoetrope.kernels import CuSeqlens, varlen_attention
from zoetrope.model.catalog.presets import open_model
from zoetrope.model.checkpoints.load import load_denoiser, load_transformer
from zoetrope.model.denoising.sampling import initial_noise
from zoetrope.model.families import FAMILIES, PRESETS, all_presets, family_of, register
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.costs import count_parameters, network_shapes, rank_memory
from zoetrope.model.network.sequences import Sequence, Stream
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard, TextToVideo, VideoRequest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(JOINT)
    yield
    FAMILIES.remove(JOINT)
    for preset in JOINT.presets:
        del PRESETS[preset.name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_joint(tmp_path_factory.mktemp("joint"))


def spec_of(card: ModelCard, **changes: object) -> VideoSpec:
    task = TextToVideo(prompt="a red circle", negative_prompt="blue")
    fields = {"task": task, "size": "48x32", "frames": 9, "steps": 4, "seed": 3, **changes}
    return resolve(VideoRequest.model_validate(fields), card, 0)


def test_its_folder_is_read_as_its_own(folder: Path) -> None:
    card = open_model(str(folder))
    assert (card.family, card.tasks, card.warnings) == ("joint-1m", ("text_to_video",), ())
    assert (card.fps, card.default_steps, card.default_guidance, card.overlap_frames) == (8, 3, 2.0, 0)
    assert family_of(card.family) is JOINT
    assert list(all_presets())[-3:] == ["joint-1m", "nano", "nano-4step"]
    said = LoadOptions(family="joint-1m")
    assert open_model(str(folder), said) == replace(card, load=said)
    with pytest.raises(ModelError, match=r"wan2\.1-t2v-14b does not match .*: its files are those of joint-1m"):
        open_model(str(folder), LoadOptions(family="wan2.1-t2v-14b"))


def test_a_clip_is_what_its_network_makes_of_the_noise(folder: Path) -> None:
    card = open_model(str(folder))
    pipeline = LocalPipeline.load(card)
    network = pipeline.denoiser.transformer
    assert isinstance(network, JointTransformer)
    spec = spec_of(card)
    (made,) = pipeline.run(spec)

    scheduler = UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(4)
    latents = initial_noise(spec.latent_shape, 3)
    positive, negative = pipeline.text.encode(["a red circle"])[0], pipeline.text.encode(["blue"])[0]
    for t in scheduler.timesteps:
        given, without = (velocity(network, latents, float(t), text) for text in (positive, negative))
        guided = without + 2.0 * (given - without)
        latents = scheduler.step(guided[None], t, latents[None], return_dict=False)[0][0]
    assert torch.allclose(made, latents, atol=1e-4)
    assert sum(len(frames) for frames in pipeline.decode(made)) == 9


@torch.inference_mode()
def velocity(network: JointTransformer, latents: torch.Tensor, t: float, text: torch.Tensor) -> torch.Tensor:
    """Of one sequence alone, cut back out of the rows by hand."""
    c, frames, height, width = latents.shape
    batch = network.pack([Sequence((Stream(latents, torch.full((frames,), t)),), text)])
    output: torch.Tensor = network(batch)
    rows = output[: frames * height * width // 4].reshape(frames, height // 2, width // 2, 1, 2, 2, c)
    return rows.permute(6, 0, 3, 1, 4, 2, 5).reshape(c, frames, height, width)


def test_clips_of_different_shapes_and_texts_share_a_batch(folder: Path) -> None:
    card = open_model(str(folder))
    pipeline = LocalPipeline.load(card)
    specs = [spec_of(card), spec_of(card, size="32x64", frames=5, steps=3, guidance=1.0)]
    alone = [pipeline.run(spec)[0] for spec in specs]
    for one, together in zip(alone, pipeline.run_batch(specs), strict=True):
        assert torch.allclose(one, together, atol=1e-4)
    other = pipeline.run(spec_of(card, task=TextToVideo(prompt="a blue square", negative_prompt="blue")))[0]
    assert not torch.allclose(alone[0], other, atol=1e-2), "the text has no say"


def test_a_rank_has_its_slice_of_the_joint_rows(folder: Path) -> None:
    """Two ranks by turns: what each makes of its rows, with keys and values of all, is what one makes of all."""
    network = load_transformer(open_model(str(folder)), CPU)
    assert isinstance(network, JointTransformer)
    torch.manual_seed(0)
    clips = [
        Sequence((Stream(torch.randn(16, t, 4, 4), torch.full((t,), 500.0)),), torch.randn(words, RAW["text_dim"]))
        for t, words in ((2, 3), (3, 5))
    ]
    batch = network.pack(clips)
    seen = Recording()
    with torch.inference_mode():
        whole = network(batch.part(0, batch.cu_tokens.total, seen))
        cut = 7
        parts = [
            network(batch.part(*rows, Replayed(seen, rows, batch))) for rows in ((0, cut), (cut, batch.cu_tokens.total))
        ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


class Recording:
    """An exchange of one rank that keeps what it was shown."""

    def __init__(self) -> None:
        self.shared: list[torch.Tensor] = []

    def share(self, x: torch.Tensor) -> torch.Tensor:
        self.shared.append(x)
        return x

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: CuSeqlens) -> torch.Tensor:
        return varlen_attention(q, k, v, cu, cu)

    def experts(self, *args: object, **more: object) -> torch.Tensor:
        raise AssertionError("there are no experts")


class Replayed(Recording):
    """A rank of two, to which the other one's rows come from a recording."""

    def __init__(self, whole: Recording, rows: tuple[int, int], batch: JointBatch) -> None:
        super().__init__()
        self._kept, self._rows, self._cu = iter(whole.shared), slice(*rows), batch.cu_tokens

    def share(self, x: torch.Tensor) -> torch.Tensor:
        every = next(self._kept).clone()
        assert torch.allclose(every[self._rows], x, atol=1e-5)
        every[self._rows] = x
        return every

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: CuSeqlens) -> torch.Tensor:
        return super().attend(q, k, v, self._cu)[self._rows]


def test_costs_and_names_are_its_own() -> None:
    config = JOINT.presets[0].config
    assert isinstance(config, JointConfig)
    assert network_shapes(config) == shapes(config)
    assert count_parameters(config).total == sum(p.numel() for p in JointTransformer(config).parameters())
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 48)
    assert config.forward_cost(10, 2).products == 2 * 12 * weights
    bytes_of = {name: (4 if "norm" in name else 2) for name in shapes(config)}
    expected = sum(bytes_of[name] * torch.Size(shape).numel() for name, shape in shapes(config).items())
    assert rank_memory(config, 100, 1).weights == expected


def test_faults_of_its_folder_are_told(folder: Path, tmp_path: Path) -> None:
    broken = write_joint(tmp_path / "x")
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["blocks.1.down.weight"]
    save_file(state, path)
    with pytest.raises(ModelError, match=r"the weights lack blocks\.1\.down\.weight"):
        open_model(str(broken))
    index = broken / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "WanPipeline"}))
    with pytest.raises(ModelError, match="transformer is a JointTransformer3DModel, expected one of WanTransformer3D"):
        open_model(str(broken))
    with pytest.raises(ModelError, match="so there is no low-noise one"):
        load_denoiser(open_model(str(folder)), CPU, role="low")


def test_a_preset_has_one_family() -> None:
    with pytest.raises(ValueError, match="preset 'joint-1m' of joint is already registered"):
        register(JOINT)
    with pytest.raises(ValueError, match="no family has a preset 'wan3'"):
        family_of("wan3")
