"""Weights on disk become the same network whatever the layout, and whatever is wrong with them is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel, WanVACETransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from tests.fixtures.original_checkpoints import write_image_encoder, write_rest, write_transformer
from tests.fixtures.random_checkpoints import write_i2v, write_t2v
from zoetrope.model.catalog.checkpoint_layout import read_image_encoder, read_transformers
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.model_card import read_card, scheduler_config
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import (
    load_autoencoder,
    load_text_encoder,
    load_transformer,
)
from zoetrope.model.checkpoints.original_clip import load_original_image_encoder
from zoetrope.model.codecs.image_encoder import ImageEncoder
from zoetrope.model.conditioning.load import load_conditioner
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.media.inputs import Picture
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

CPU = torch.device("cpu")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def diffusers_layout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WanPipeline]:
    """A tiny checkpoint whose autoencoder has the levels and blocks of the public one."""
    root = tmp_path_factory.mktemp("diffusers") / "tiny"
    pipeline = write_t2v(root)
    torch.manual_seed(1)
    pipeline.vae = AutoencoderKLWan(base_dim=4).eval()
    pipeline.vae.save_pretrained(root / "vae")
    return root, pipeline


@pytest.fixture
def broken(diffusers_layout: tuple[Path, WanPipeline], tmp_path: Path) -> Path:
    """A copy whose transformer may be damaged."""
    root = tmp_path / "tiny"
    write_t2v(root)
    return root


def states(root: Path) -> dict[str, dict[str, torch.Tensor]]:
    card = find_model(str(root))
    autoencoder: Any = load_autoencoder(card, CPU)
    return {
        "transformer": load_transformer(card, CPU).state_dict(),
        "text": load_text_encoder(card, CPU).encoder.state_dict(),
        "vae": autoencoder._network.state_dict(),
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_both_layouts_load_to_identical_tensors(
    diffusers_layout: tuple[Path, WanPipeline], tmp_path: Path, suffix: str
) -> None:
    root, pipeline = diffusers_layout
    original = tmp_path / "Wan2.1-T2V"
    write_transformer(original, pipeline.transformer, "t2v", suffix)
    write_rest(original, pipeline.vae, pipeline.text_encoder, suffix)
    check_files(find_model(str(original)))
    expected, loaded = states(root), states(original)
    for part, tensors in expected.items():
        assert tensors.keys() == loaded[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, loaded[part][name]), name


def test_a_whole_directory_of_the_original_layout_gives_the_same_clip(
    diffusers_layout: tuple[Path, WanPipeline], tmp_path: Path
) -> None:
    root, pipeline = diffusers_layout
    original = tmp_path / "Wan2.1-T2V"
    write_transformer(original, pipeline.transformer, "t2v")
    write_rest(original, pipeline.vae, pipeline.text_encoder)
    scheduler = root / "scheduler" / "scheduler_config.json"
    ours = scheduler_config(find_model(str(original)))
    assert ours["flow_shift"] == 5.0
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"flow_shift": 5.0}))
    latents = []
    for directory in (root, original):
        card = replace(find_model(str(directory)), name="tiny")
        request = VideoRequest(task=TextToVideo(prompt=PROMPT), size="48x32", frames=5, steps=2, seed=3)
        pipeline_of_ours = LocalPipeline.load(card)
        (clip,) = pipeline_of_ours.run_batch([resolve(request, card, 0)])
        latents.append(clip)
    assert torch.allclose(latents[0], latents[1], rtol=0, atol=1e-5)  # not equal: mapped tensors lie differently


@pytest.mark.parametrize("kind", ["i2v", "flf2v", "vace"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_transformers_of_other_families_in_both_layouts(tmp_path: Path, kind: str, suffix: str) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": 16 if kind == "vace" else 36,
        "out_channels": 16,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 16,
        "num_layers": 2,
    }
    if kind == "vace":
        network = WanVACETransformer3DModel(**shape, vace_layers=[0, 1], vace_in_channels=96)
    else:
        network = WanTransformer3DModel(
            **shape, image_dim=12, added_kv_proj_dim=48, pos_embed_seq_len=514 if kind == "flf2v" else None
        )
    network.save_pretrained(tmp_path / "diffusers" / "transformer")
    write_transformer(tmp_path / "original", network, kind, suffix)
    (tmp_path / "diffusers" / "model_index.json").write_text("{}")
    card = find_model("nano")
    expected = {name for name in network.state_dict() if not name.startswith("rope.")}
    for layout in ("diffusers", "original"):
        loaded = load_transformer(replace(card, directory=str(tmp_path / layout)), CPU).state_dict()
        assert loaded.keys() == expected
        for name, tensor in network.state_dict().items():
            assert torch.equal(loaded[name], tensor), name


def test_a_pair_of_noise_experts_in_the_original_layout(
    diffusers_layout: tuple[Path, WanPipeline], tmp_path: Path
) -> None:
    _, pipeline = diffusers_layout
    root = tmp_path / "Wan2.2-T2V-A14B"
    write_transformer(root / "high_noise_model", pipeline.transformer, "t2v")
    torch.manual_seed(2)
    low = WanTransformer3DModel.from_config(pipeline.transformer.config)
    write_transformer(root / "low_noise_model", low, "t2v")
    write_rest(root, pipeline.vae, pipeline.text_encoder)
    card = find_model(str(root))
    assert (card.boundary, card.default_guidance, card.default_guidance_low) == (0.875, 4.0, 3.0)
    assert scheduler_config(card)["flow_shift"] == 12.0
    loaded = [
        load_transformer(card, CPU, name).state_dict()["proj_out.weight"] for name in ("transformer", "transformer_2")
    ]
    assert torch.equal(loaded[0], pipeline.transformer.proj_out.weight)
    assert torch.equal(loaded[1], low.proj_out.weight)
    single = find_model(str(diffusers_layout[0]))
    with pytest.raises(ModelError, match="only one transformer"):
        load_transformer(single, CPU, "transformer_2")


def test_wan22_image_to_video_takes_no_clip_tokens(tmp_path: Path) -> None:
    """Its configuration says i2v as Wan2.1's does; only the weights tell."""
    network = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=36, text_dim=8, freq_dim=16, ffn_dim=16, num_layers=1
    )
    for name in ("high_noise_model", "low_noise_model"):
        write_transformer(tmp_path / name, network, "i2v")
    assert [part.config.get("image_dim") for part in read_transformers(tmp_path)] == [None, None]


def test_shards_and_pickled_weights(diffusers_layout: tuple[Path, WanPipeline], tmp_path: Path) -> None:
    root, pipeline = diffusers_layout
    card = find_model(str(root))
    (tmp_path / "model_index.json").write_text("{}")
    here = replace(card, directory=str(tmp_path))
    pipeline.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="40KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    sharded = load_transformer(here, CPU).state_dict()
    for path in (tmp_path / "transformer").glob("diffusion*"):
        path.unlink()
    pipeline.transformer.save_pretrained(tmp_path / "transformer", safe_serialization=False)
    pickled = load_transformer(here, CPU).state_dict()
    for name, tensor in load_transformer(card, CPU).state_dict().items():
        assert torch.equal(sharded[name], tensor)
        assert torch.equal(pickled[name], tensor)


def test_a_missing_shard_is_named(diffusers_layout: tuple[Path, WanPipeline], broken: Path) -> None:
    (broken / WEIGHTS).unlink()
    diffusers_layout[1].transformer.save_pretrained(broken / "transformer", max_shard_size="40KB")
    shard = sorted((broken / "transformer").glob("*-00002-*"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        check_files(find_model(str(broken)))


def damage(root: Path, **changes: torch.Tensor | None) -> None:
    """Replace or remove tensors; ``__`` stands for a dot."""
    path = root / WEIGHTS
    tensors = load_file(path)
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    path.unlink()
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proj_out__bias": None}, r"transformer: the weights lack proj_out\.bias$"),
        ({"proj_out__bias": None, "proj_out__weight": None}, r"lack proj_out\.bias and 1 more keys"),
        ({"proj_out__bias": torch.zeros(3)}, r"proj_out\.bias has shape \(3,\), expected \(64,\)"),
        ({"vace_patch_embedding__bias": torch.zeros(3)}, r"hold vace_patch_embedding\.bias that the configuration"),
        ({"blocks__2__ffn__net__2__bias": torch.zeros(48)}, r"says 2 blocks and the weights hold 3"),
        ({"proj_out__bias": torch.full((64,), float("nan"))}, r"proj_out\.bias holds NaN or infinity"),
        ({"proj_out__bias": torch.full((64,), float("inf"))}, r"proj_out\.bias holds NaN or infinity"),
    ],
)
def test_wrong_tensors_are_named(broken: Path, changes: dict[str, torch.Tensor | None], message: str) -> None:
    damage(broken, **changes)
    with pytest.raises(ModelError, match=message):
        load_transformer(find_model(str(broken)), CPU)


def test_tables_that_nobody_reads_are_let_pass(broken: Path) -> None:
    damage(broken, rope__freqs_cos=torch.zeros(4), blocks__0__attn2__norm_added_q__weight=torch.zeros(48))
    load_transformer(find_model(str(broken)), CPU)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_layers", 4, "says 4 blocks and the weights hold 2"),
        ("num_layers", 1, "says 1 blocks and the weights hold 2"),
        ("ffn_dim", 80, r"net\.0\.proj\.weight has shape \(64, 48\), expected \(80, 48\)"),
        ("num_layers", "many", "config.json: num_layers:"),
        ("num_attention_heads", None, "config.json: num_attention_heads:"),
        ("image_dim", 1280, "image_dim is 1280 and added_kv_proj_dim is None"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors(broken: Path, key: str, value: object, message: str) -> None:
    path = broken / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=message):
        load_transformer(find_model(str(broken)), CPU)


@pytest.mark.parametrize("keep", [0, 6, 1000, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_truncated_files_are_refused(broken: Path, keep: int, suffix: str) -> None:
    path = broken / WEIGHTS
    if suffix == ".bin":
        state = load_file(path)
        path.unlink()
        path = path.with_suffix(suffix)
        torch.save(state, path)
    content = path.read_bytes()[:keep]
    path.unlink()
    path.write_bytes(content)
    card = read_card(broken, "broken")
    with pytest.raises(ModelError, match=path.name):
        load_transformer(card, CPU)


@pytest.mark.parametrize("part", ["text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"])
def test_nan_in_the_other_components(broken: Path, part: str) -> None:
    tensors = load_file(broken / part)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[-1] = float("nan")
    (broken / part).unlink()
    save_file(tensors, broken / part)
    load = load_text_encoder if part.startswith("text") else load_autoencoder
    with pytest.raises(ModelError, match=name.replace(".", r"\.") + " holds NaN"):
        load(find_model(str(broken)), CPU)


def test_a_pickle_that_is_no_state_dict_is_refused(broken: Path) -> None:
    (broken / WEIGHTS).unlink()
    torch.save([1, 2], (broken / WEIGHTS).with_suffix(".bin"))
    with pytest.raises(ModelError, match="not a state dict"):
        load_transformer(find_model(str(broken)), CPU)


def test_narrow_weights_keep_what_diffusers_keeps_in_float32(diffusers_layout: tuple[Path, WanPipeline]) -> None:
    root, pipeline = diffusers_layout
    ours = load_transformer(find_model(str(root)), CPU, dtype=torch.bfloat16).state_dict()
    kept = set(WanTransformer3DModel._keep_in_fp32_modules)
    for name, tensor in pipeline.transformer.state_dict().items():
        dtype = torch.float32 if kept & set(name.split(".")) else torch.bfloat16
        assert ours[name].dtype == dtype, name
        assert torch.equal(ours[name], tensor.to(dtype)), name
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16, torch.float32}


def tiny_experts(root: Path) -> WanTransformer:
    torch.manual_seed(3)
    config = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=2,
        moe=MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=8, expert_bias=True),
    )
    network = WanTransformer(config)
    folder = root / "transformer"
    folder.mkdir()
    (root / "model_index.json").write_text("{}")
    raw = {"_class_name": "ZoetropeTransformer3DModel", **config.model_dump(mode="json")}
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(network.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    return network


def test_a_rank_gets_its_own_experts_only(tmp_path: Path) -> None:
    network = tiny_experts(tmp_path)
    damage(
        tmp_path,
        blocks__1__ffn__w1=torch.cat([network.state_dict()["blocks.1.ffn.w1"][:2], torch.full((2, 48, 8), torch.nan)]),
    )
    card = replace(find_model("nano"), directory=str(tmp_path))
    first = load_transformer(card, CPU, rank=0, ranks=2).state_dict()
    for name, tensor in network.state_dict().items():
        own = tensor[:2] if name in ("blocks.1.ffn.w1", "blocks.1.ffn.w2", "blocks.1.ffn.b1") else tensor
        assert torch.equal(first[name], own), name
    with pytest.raises(ModelError, match=r"blocks\.1\.ffn\.w1 holds NaN"):  # which the first never read
        load_transformer(card, CPU, rank=1, ranks=2)
    with pytest.raises(ModelError, match="4 experts cannot be split evenly over 3 ranks"):
        load_transformer(card, CPU, rank=0, ranks=3)


def test_progress_counts_every_parameter_once(diffusers_layout: tuple[Path, WanPipeline]) -> None:
    root, pipeline = diffusers_layout
    seen: list[tuple[int, int]] = []
    load_transformer(find_model(str(root)), CPU, on_progress=lambda done, total: seen.append((done, total)))
    total = sum(p.numel() for p in pipeline.transformer.parameters())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_clip_of_the_original_layout(tmp_path: Path) -> None:
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",
    )
    network = CLIPVisionModel(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pictures = [Picture(np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)) for i in range(2)]
    expected = ImageEncoder(processor, network).encode(pictures)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanModel"}))
    write_image_encoder(tmp_path, network)
    assert torch.allclose(
        load_original_image_encoder(read_image_encoder(tmp_path), CPU).encode(pictures), expected, rtol=0, atol=1e-5
    )
    assert expected.shape == (10, 160)
    path = next(tmp_path.glob("models_clip*"))
    path.unlink()
    torch.save({"textual.token_embedding.weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="holds no vision tower"):
        load_original_image_encoder(read_image_encoder(tmp_path), CPU)


def test_nan_in_the_image_encoder(tmp_path: Path) -> None:
    write_i2v(tmp_path, clip=True)
    path = tmp_path / "image_encoder" / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = float("nan")
    path.unlink()
    save_file(tensors, path)
    card = find_model(str(tmp_path))
    with pytest.raises(ModelError, match=name.replace(".", r"\.") + " holds NaN"):
        load_conditioner(card, load_autoencoder(card, CPU), CPU)
