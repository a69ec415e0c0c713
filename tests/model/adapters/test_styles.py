"""Every style of file gives the same changes; every form of change gives what its formula says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.adapter_styles import (
    CONFIG,
    RANK,
    ROOT_LINEARS,
    STYLES,
    TARGETS,
    block_modules,
    random_pairs,
    styled,
    write,
)
from zoetrope.model.adapters.card import check_adapters
from zoetrope.model.adapters.parse import parse_adapter
from zoetrope.model.adapters.patches import Difference, LowRank, Patch
from zoetrope.model.adapters.targets import Targets
from zoetrope.model.families.config import TransformerConfig

Q = "blocks.1.attn1.to_q"
ALPHA = 2.0
SIDES = {"ai-toolkit, high": "high", "ai-toolkit, low": "low", "transformer_2.": "low"}


def parsed(path: Path, targets: Targets = TARGETS) -> dict[str, Patch]:
    """Patches by target, of a file with one a target."""
    found = parse_adapter(path, targets)
    assert len({patch.target for _, patch in found}) == len(found)
    return {patch.target: patch for _, patch in found}


@pytest.mark.parametrize("name", STYLES)
def test_every_style_gives_the_same_changes(name: str, tmp_path: Path) -> None:
    style, pairs = STYLES[name], random_pairs([*block_modules(), *ROOT_LINEARS])
    found = parse_adapter(write(tmp_path / "a.safetensors", styled(style, pairs, ALPHA)), TARGETS)
    assert {side for side, _ in found} == {SIDES.get(name, "any")}
    assert {patch.target for _, patch in found} == {f"{module}.weight" for module in pairs}
    for _, patch in found:
        a, b = pairs[patch.target.removesuffix(".weight")]
        assert isinstance(patch, LowRank)
        assert torch.equal(patch.a, a) and torch.equal(patch.b, b)
        assert patch.scale == (ALPHA / RANK if style.alpha else 1.0)


def test_a_file_of_both_noise_experts_keeps_them_apart(tmp_path: Path) -> None:
    high, low = (random_pairs(block_modules(), seed=seed) for seed in (1, 2))
    for first, second in (("diffusers", "transformer_2."), ("ai-toolkit, high", "ai-toolkit, low")):
        tensors = styled(STYLES[first], high) | styled(STYLES[second], low)
        found = parse_adapter(write(tmp_path / "pair.safetensors", tensors), TARGETS)
        for side, pairs in (("high", high), ("low", low)):
            own = {patch.target: patch for at, patch in found if at == side}
            patch = own[f"{Q}.weight"]
            assert isinstance(patch, LowRank) and torch.equal(patch.a, pairs[Q][0])
            assert len(own) == len(pairs)


def test_whole_differences_as_lightx2v_extracts_them(tmp_path: Path) -> None:
    """Norms, biases, modulation, the patch embedding and the head, beside pairs."""
    torch.manual_seed(0)
    dim = CONFIG.dim
    names = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.1.cross_attn.norm_k.diff": "blocks.1.attn2.norm_k.weight",
        "blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "blocks.1.ffn.0.diff_b": "blocks.1.ffn.net.0.proj.bias",
        "head.diff_m": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "head.head.diff_b": "proj_out.bias",
        "patch_embedding.diff": "patch_embedding.weight",
        "patch_embedding.diff_b": "patch_embedding.bias",
        "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "text_embedding.0.diff": "condition_embedder.text_embedder.linear_1.weight",
    }
    values = {key: torch.randn(TARGETS.shapes[target]) for key, target in names.items()}
    pairs = random_pairs([Q])
    tensors = {f"diffusion_model.{key}": value for key, value in values.items()} | styled(STYLES["lightx2v"], pairs)
    found = parsed(write(tmp_path / "a.safetensors", tensors))
    assert found.keys() == {*names.values(), f"{Q}.weight"}
    for key, target in names.items():
        patch = found[target]
        assert isinstance(patch, Difference)
        assert torch.equal(patch.delta(), values[key])
    assert values["blocks.1.diff_m"].shape == (1, 6, dim)


def test_a_pair_for_the_patch_embedding_changes_its_kernel(tmp_path: Path) -> None:
    pairs = random_pairs(["patch_embedding"])
    a, b = pairs["patch_embedding"]
    flat = parsed(write(tmp_path / "a.safetensors", styled(STYLES["lightx2v"], pairs)))
    kernel = {"patch_embedding": (a.reshape(RANK, CONFIG.in_channels, 1, 2, 2), b.reshape(-1, RANK, 1, 1, 1))}
    whole = parsed(write(tmp_path / "b.safetensors", styled(STYLES["lightx2v"], kernel)))
    for found in (flat, whole):
        assert torch.equal(found["patch_embedding.weight"].delta(), b @ a)


def loha(rank: int) -> dict[str, torch.Tensor]:
    dim = CONFIG.dim
    return {f"hada_w{n}_{x}": torch.randn((dim, rank) if x == "a" else (rank, dim)) for n in "12" for x in "ab"}


def test_the_formulas_of_loha_and_lokr(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dim, stem, file = CONFIG.dim, "lycoris_blocks_1_self_attn_q.", tmp_path / "a.safetensors"

    def delta(**parts: torch.Tensor) -> torch.Tensor:
        return parsed(write(file, {stem + name: value for name, value in parts.items()}))[f"{Q}.weight"].delta()

    w = loha(3)
    made = (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"])
    torch.testing.assert_close(delta(**w, alpha=torch.tensor([6.0])), 2.0 * made)
    torch.testing.assert_close(delta(**w), made)

    w1, w2 = torch.randn(4, 6), torch.randn(dim // 4, dim // 6)
    torch.testing.assert_close(delta(lokr_w1=w1, lokr_w2=w2, alpha=torch.tensor(9.0)), torch.kron(w1, w2))
    a, b = torch.randn(dim // 4, 2), torch.randn(2, dim // 6)
    scaled = delta(lokr_w1=w1, lokr_w2_a=a, lokr_w2_b=b, alpha=torch.tensor(9.0))
    torch.testing.assert_close(scaled, 4.5 * torch.kron(w1, a @ b))
    c, d = torch.randn(4, 1), torch.randn(1, 6)
    scaled = delta(lokr_w1_a=c, lokr_w1_b=d, lokr_w2_a=a, lokr_w2_b=b, alpha=torch.tensor(3.0))
    torch.testing.assert_close(scaled, 3.0 * torch.kron(c @ d, a @ b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_alphas_of_every_type(dtype: torch.dtype, tmp_path: Path) -> None:
    pairs = random_pairs([Q])
    tensors = {name: value.to(dtype) for name, value in styled(STYLES["musubi-tuner"], pairs, alpha=0.5).items()}
    patch = parsed(write(tmp_path / "a.safetensors", tensors))[f"{Q}.weight"]
    assert isinstance(patch, LowRank) and patch.scale == 0.5 / RANK
    a, b = (pairs[Q][i].to(dtype).float() for i in (0, 1))
    torch.testing.assert_close(patch.delta(), 0.125 * b @ a)


PATTERNS: dict[str, tuple[dict[str, Any], float]] = {
    "alpha": ({}, 8 / RANK),
    "rslora": ({"use_rslora": True}, 8 / math.sqrt(RANK)),
    "a module's end": ({"alpha_pattern": {"attn1.to_q": 1.0}}, 1 / RANK),
    "the whole name": ({"alpha_pattern": {Q: 2.0}, "use_rslora": True}, 2 / math.sqrt(RANK)),
    "an expression": ({"alpha_pattern": {r"blocks\.\d+\.attn1\.to_[qk]": 3.0}}, 3 / RANK),
    "another module": ({"alpha_pattern": {"to_k": 1.0, "1.to_q": 1.0}}, 8 / RANK),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_pefts_configuration_says_the_scale(name: str, tmp_path: Path) -> None:
    """In a folder of PEFT's, and in the file's own metadata as diffusers writes it."""
    extra, scale = PATTERNS[name]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["to_q"], **extra}
    pairs = random_pairs([Q, "blocks.0.attn2.to_v"])
    folder = tmp_path / "style"
    peft = {key: value for key, value in styled(STYLES["PEFT"], pairs).items() if not key.endswith("alpha")}
    write(folder / "adapter_model.safetensors", peft)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    card = check_adapters([str(folder)], CONFIG, networks=1)
    assert [adapter.name for adapter in card.adapters] == ["style"]
    text = json.dumps({f"transformer.{key}": value for key, value in config.items()})
    file = write(tmp_path / "a.safetensors", styled(STYLES["diffusers"], pairs), {"lora_adapter_metadata": text})
    for path in (Path(card.adapters[0].path), file):
        patch = parsed(path)[f"{Q}.weight"]
        assert isinstance(patch, LowRank) and patch.scale == pytest.approx(scale)


def test_the_bias_of_a_pair_has_its_scale(tmp_path: Path) -> None:
    """PEFT's lora_bias."""
    pairs, bias = random_pairs([Q]), torch.randn(CONFIG.dim)
    tensors = styled(STYLES["diffusers"], pairs) | {f"transformer.{Q}.lora_B.bias": bias}
    text = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK, "transformer.lora_bias": True})
    found = parsed(write(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": text}))
    torch.testing.assert_close(found[f"{Q}.bias"].delta(), 2.0 * bias)


def test_what_may_be_ignored_is_counted(tmp_path: Path) -> None:
    """Image branches on a model without one, and changes of nothing."""
    torch.manual_seed(0)
    dim, pairs = CONFIG.dim, random_pairs([Q])
    image = {"blocks.0.cross_attn.k_img": (torch.randn(RANK, dim), torch.randn(dim, RANK))}
    tensors = styled(STYLES["lightx2v"], pairs)
    for module, (a, b) in image.items():
        tensors |= {f"diffusion_model.{module}.lora_down.weight": a, f"diffusion_model.{module}.lora_up.weight": b}
    tensors |= {
        "diffusion_model.img_emb.proj.0.diff": torch.randn(1280),
        "diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.randn(dim),
        "diffusion_model.blocks.7.self_attn.q.lora_down.weight": torch.randn(RANK, dim),
        "diffusion_model.blocks.7.self_attn.q.lora_up.weight": -torch.zeros(dim, RANK),
        "diffusion_model.blocks.0.norm1.diff": torch.zeros(dim),
    }
    path = write(tmp_path / "a.safetensors", tensors)
    assert parsed(path).keys() == {f"{Q}.weight"}
    first, second = sorted(check_adapters([str(path)], CONFIG, networks=1).warnings, key=lambda text: "zero" in text)
    assert "4 tensors such as" in first and first.endswith("are ignored: the model attends to no tokens of pictures")
    assert "3 tensors such as" in second and second.endswith("are ignored: they are zero")


def test_an_image_branch_gets_its_own_changes(tmp_path: Path) -> None:
    config = TransformerConfig.model_validate(
        {**CONFIG.model_dump(), "image_dim": 24, "added_kv_proj_dim": CONFIG.dim, "pos_embed_seq_len": 10}
    )
    targets = Targets(config)
    pairs = random_pairs(["blocks.0.attn2.add_k_proj"], targets)
    tensors = styled(STYLES["lightx2v"], pairs)
    tensors["diffusion_model.img_emb.emb_pos.diff"] = torch.randn(1, 10, 24)
    tensors["diffusion_model.img_emb.proj.1.diff_b"] = torch.randn(24)
    found = parsed(write(tmp_path / "a.safetensors", tensors), targets)
    embedder = "condition_embedder.image_embedder"
    expected = {"blocks.0.attn2.add_k_proj.weight", f"{embedder}.pos_embed", f"{embedder}.ff.net.0.proj.bias"}
    assert found.keys() == expected


def test_vace_blocks_by_kohyas_names(tmp_path: Path) -> None:
    vace = {**CONFIG.model_dump(), "vace_layers": (0, 1)}
    targets = Targets(TransformerConfig.model_validate(vace))
    modules = ["vace_blocks.1.attn1.to_q", "vace_blocks.0.proj_in", "vace_blocks.1.proj_out", "vace_blocks.1.ffn.net.2"]
    tensors = styled(STYLES["musubi-tuner"], random_pairs(modules, targets))
    assert "lora_unet_vace_blocks_0_before_proj.alpha" in tensors
    found = parsed(write(tmp_path / "a.safetensors", tensors), targets)
    assert found.keys() == {f"{module}.weight" for module in modules}
