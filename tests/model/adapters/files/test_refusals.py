"""What cannot be applied is refused by the tensor's name, and nothing is loaded for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.fixtures.adapter_styles import CONFIG, RANK, STYLES, TARGETS, random_pairs, styled, write
from zoetrope.model.adapters.files.card import check_adapters
from zoetrope.model.adapters.files.plan import plan_adapter
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.families.nano import NANO_CONFIG
from zoetrope.model.inspection.files import ModelError

D = CONFIG.dim
Q = "blocks.1.attn1.to_q"
ORIGINAL = "diffusion_model.blocks.0.self_attn.q"
PAIR = {f"{ORIGINAL}.lora_A.weight": torch.ones(RANK, D), f"{ORIGINAL}.lora_B.weight": torch.ones(D, RANK)}


def problem(path: Path, tensors: dict[str, torch.Tensor], config: TransformerConfig = CONFIG, **metadata: str) -> str:
    with pytest.raises(ModelError) as error:
        check_adapters([str(write(path / "a.safetensors", tensors, metadata or None))], config, networks=1)
    return str(error.value)


REFUSED = {
    f"{ORIGINAL}.dora_scale": "DoRA",
    f"{ORIGINAL}.lora_magnitude_vector.weight": "DoRA",
    f"{ORIGINAL}.lora_magnitude_vector": "DoRA",
    f"{ORIGINAL}.lora_mid.weight": "third factor",
    f"{ORIGINAL}.hada_t1": "CP form",
    f"{ORIGINAL}.lokr_t2": "CP form",
    f"{ORIGINAL}.oft_blocks": "OFT",
    f"{ORIGINAL}.oft_diag": "OFT",
    f"{ORIGINAL}.a1.weight": "GLoRA",
    f"{ORIGINAL}.b2": "GLoRA",
    f"{ORIGINAL}.w_norm": "norm that LyCORIS trained",
    f"{ORIGINAL}.set_weight": "replaced or reshaped",
    f"{ORIGINAL}.reshape_weight": "replaced or reshaped",
    "blocks.0.self_attn.q_loras.down.weight": "Stand-In",
    "diffusion_model.dwpose_embedding.0.weight": "UniAnimate",
    "diffusion_model.randomref_embedding_pose.0.weight": "UniAnimate",
    "lora_te_encoder_block_0.lora_down.weight": "text encoder",
    "text_encoder.block.0.lora_A.weight": "text encoder",
    "diffusion_model.vace_blocks.0.self_attn.q.diff": "VACE",
    f"{ORIGINAL}.something": "no known part",
    "diffusion_model.blocks.0.motion.diff": "no place",
    "diffusion_model.blocks.30.self_attn.q.diff": "which has 2 blocks",
    f"{ORIGINAL}.lora_A.other.weight": "no known part",
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_refused_tensor_is_named(key: str, tmp_path: Path) -> None:
    said = problem(tmp_path, PAIR | {key: torch.ones(1)})
    assert f"{tmp_path / 'a.safetensors'}: {key} " in said
    assert REFUSED[key] in said


def test_a_lora_of_another_size_names_both_shapes(tmp_path: Path) -> None:
    other = {f"{ORIGINAL}.lora_A.weight": torch.ones(RANK, 64), f"{ORIGINAL}.lora_B.weight": torch.ones(64, RANK)}
    said = problem(tmp_path, other)
    assert said == (
        f"lora: {tmp_path / 'a.safetensors'}: {ORIGINAL}.lora_A.weight has shape [4, 64], expected [4, 48]: "
        "the model's blocks.0.attn1.to_q.weight is [48, 48]"
    )
    said = problem(tmp_path, PAIR | {"diffusion_model.blocks.0.norm3.diff": torch.ones(64)})
    assert said.endswith("norm3.diff has shape [64], the model's blocks.0.norm2.weight is [48]")


def test_a_control_lora_is_told_by_its_channels(tmp_path: Path) -> None:
    stem = "diffusion_model.patch_embedding"
    control = {f"{stem}.lora_A.weight": torch.ones(RANK, 36 * 4), f"{stem}.lora_B.weight": torch.ones(D, RANK)}
    assert "the model takes 16 channels: it is a control LoRA" in problem(tmp_path, PAIR | control)


KOHYA = {key.replace(ORIGINAL, "lora_unet_blocks_0_self_attn_q"): value.clone() for key, value in PAIR.items()}


def without(part: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in PAIR.items() if part not in key}


BAD: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "no B": (without("lora_B"), f"{ORIGINAL}.lora_A.weight lacks its counterpart: lora_B of that module is missing"),
    "no A": (without("lora_A"), f"{ORIGINAL}.lora_B.weight lacks its counterpart: lora_A of that module is missing"),
    "alpha alone": (
        PAIR
        | {"diffusion_model.blocks.0.self_attn.k.alpha": torch.tensor(1.0), f"{ORIGINAL}.alpha": torch.tensor(1.0)},
        "self_attn.k.alpha lacks its counterpart",
    ),
    "alpha of no use": (PAIR | {f"{ORIGINAL}.alpha": torch.tensor(0.0)}, f"{ORIGINAL}.alpha is 0.0, must be"),
    "alpha of NaN": (PAIR | {f"{ORIGINAL}.alpha": torch.tensor(torch.nan)}, f"{ORIGINAL}.alpha is nan, must be"),
    "alpha of many": (PAIR | {f"{ORIGINAL}.alpha": torch.ones(2)}, f"{ORIGINAL}.alpha has shape [2], expected one"),
    "two namings": (
        PAIR | styled(STYLES["diffusers"], random_pairs([Q])),
        "names modules in two ways, of Wan's own code (blocks.0.self_attn.q) and of diffusers (blocks.1.attn1.to_q)",
    ),
    "one part twice": (
        PAIR | {f"{ORIGINAL}.lora_down.weight": torch.ones(RANK, D)},
        "are the same part of a module",
    ),
    "one module twice": (
        PAIR | KOHYA,
        "both change blocks.0.attn1.to_q.weight",
    ),
    "PEFT alone": (
        {key.replace("diffusion_model", "base_model.model"): value for key, value in PAIR.items()},
        "whose scale is in adapter_config.json: give the folder",
    ),
    "rank": (
        {f"{ORIGINAL}.lora_A.weight": torch.ones(300, D), f"{ORIGINAL}.lora_B.weight": torch.ones(D, 300)},
        f"{ORIGINAL}.lora_A.weight is of rank 300, must be from 1 to 256",
    ),
    "infinity": (
        PAIR | {f"{ORIGINAL}.lora_B.weight": torch.full((D, RANK), torch.inf)},
        f"{ORIGINAL}.lora_B.weight holds NaN or infinity",
    ),
    "NaN": (
        {key: torch.full_like(value, torch.nan, dtype=torch.bfloat16) for key, value in PAIR.items()},
        "holds NaN or infinity",
    ),
    "8 bits": (
        {key: value.to(torch.float8_e4m3fn) for key, value in PAIR.items()},
        "is stored as F8_E4M3, expected one of F32, F16, BF16",
    ),
    "integers": (PAIR | {f"{ORIGINAL}.alpha": torch.tensor(4)}, f"{ORIGINAL}.alpha is stored as I64, expected one of"),
    "nothing": ({}, "changes nothing in this model: it holds no tensors"),
    "nothing here": (
        {f"diffusion_model.img_emb.proj.{n}.diff": torch.ones(4) for n in (0, 4)},
        "changes nothing in this model: 2 tensors such as",
    ),
    "the router": (PAIR | {"diffusion_model.blocks.0.ffn.gate.diff": torch.ones(1)}, "blocks.0.ffn.gate.diff has no"),
    "a factor twice": (
        {f"{ORIGINAL}.lokr_w1": torch.ones(2, 2), f"{ORIGINAL}.lokr_w1_a": torch.ones(2, 1)},
        f"{ORIGINAL}.lokr_w1 is there whole and in factors",
    ),
    "another product": (
        {f"{ORIGINAL}.lokr_w1": torch.ones(2, 2), f"{ORIGINAL}.lokr_w2": torch.ones(24, 25)},
        f"{ORIGINAL}.lokr_w1 and its other factors make [48, 50], the model's blocks.0.attn1.to_q.weight is [48, 48]",
    ),
    "a pair for a norm": (
        {key.replace("self_attn.q", "self_attn.norm_q"): value for key, value in PAIR.items()},
        "whose blocks.0.attn1.norm_q.weight is no matrix",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, tmp_path: Path) -> None:
    tensors, expected = BAD[name]
    assert expected in problem(tmp_path, tensors)


def test_some_alphas_are_not_enough(tmp_path: Path) -> None:
    """The rest would act eight times too strongly, if alpha is 8 and the rank 64."""
    tensors = styled(STYLES["Wan2.2-Lightning"], random_pairs([Q, "blocks.0.ffn.net.2"]))
    del tensors["diffusion_model.blocks.0.ffn.2.alpha"]
    assert "blocks.0.ffn.2.lora_down.weight has no alpha, other modules have one" in problem(tmp_path, tensors)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora is set"),
    "another method": ({"peft_type": "LOHA"}, "peft_type is 'LOHA', expected LORA"),
    "turned": ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "no number": ({"lora_alpha": "8"}, "lora_alpha is '8', must be a number above 0"),
    "NaN": ({"lora_alpha": float("nan")}, "lora_alpha is nan, must be a number above 0"),
    "a number without end": ({"lora_alpha": 10**400}, "lora_alpha is 1000000"),
    "no alpha and no rank": ({"lora_alpha": None, "r": None}, "lora_alpha is None"),
    "no table": ({"alpha_pattern": [1]}, "alpha_pattern is [1], must be an object"),
    "no expression": ({"alpha_pattern": {"to_(q": 1.0}}, "alpha_pattern has to_(q, must be names of layers"),
    "slow": ({"alpha_pattern": {"(a+)+$": 1.0}}, "alpha_pattern has (a+)+$, must be names of layers"),
    "slow, too": ({"alpha_pattern": {"(|)" * 30 + "!": 1.0}}, "alpha_pattern has (|)(|)"),
    "flags": ({"alpha_pattern": {"(?i)a": 1.0}}, "alpha_pattern has (?i)a, must be names of layers"),
    "no flag": ({"use_rslora": "yes"}, "use_rslora is 'yes', must be true or false"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_configurations(name: str, tmp_path: Path) -> None:
    extra, expected = CONFIGS[name]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, **extra}
    tensors = styled(STYLES["diffusers"], random_pairs([Q]))
    text = json.dumps({f"transformer.{key}": value for key, value in config.items()})
    assert f"lora_adapter_metadata: {expected}" in problem(tmp_path, tensors, lora_adapter_metadata=text)
    folder = tmp_path / "folder"
    write(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as error:
        check_adapters([str(folder)], CONFIG, networks=1)
    assert str(error.value).startswith(f"lora: {folder / 'adapter_config.json'}: ") and expected in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"a":' * 20 + "1" + "}" * 20, "[" * 100_000])
def test_metadata_that_is_no_configuration(text: str, tmp_path: Path) -> None:
    said = problem(tmp_path, styled(STYLES["diffusers"], random_pairs([Q])), lora_adapter_metadata=text)
    assert "lora_adapter_metadata: " in said


def test_metadata_of_no_transformer_is_refused(tmp_path: Path) -> None:
    """diffusers writes the component before each key; without it nobody knows whose scale it is."""
    text = json.dumps({"r": RANK, "lora_alpha": 2 * RANK})
    said = problem(tmp_path, PAIR, lora_adapter_metadata=text)
    assert "lora_adapter_metadata: r is of no transformer: its keys must begin with transformer." in said
    mixed = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": RANK, "text_encoder.r": 4})
    assert "text_encoder.r is of no transformer" in problem(tmp_path, PAIR, lora_adapter_metadata=mixed)


def test_a_feed_forward_layer_without_origin(tmp_path: Path) -> None:
    """nano's experts have no dense layer as their origin; adapters of attention fit it."""
    config = NANO_CONFIG
    routed = {"transformer.blocks.1.ffn.net.2.diff": torch.ones(4)}
    said = problem(tmp_path, routed, config)
    assert said.endswith(
        "blocks.1.ffn.net.2.diff changes a feed-forward layer that this model routes to experts, which have no such "
        "layer as their origin: adapters of attention alone can be applied"
    )
    for name in ("gate.weight", "correction", "w1"):
        assert "changes a feed-forward layer" in problem(tmp_path, {f"blocks.1.ffn.{name}.diff": torch.ones(4)}, config)


def test_experts_that_are_not_the_whole_layer(tmp_path: Path) -> None:
    moe = MoEConfig(layers=(0,), num_experts=4, top_k=2, expert_dim=16, router="grouped_top1", groups=2)
    config = CONFIG.model_copy(update={"moe": moe})
    assert "routes to experts" in problem(tmp_path, {"blocks.0.ffn.0.diff": torch.ones(64, D)}, config)


class OtherConfig(TransformerConfig):
    """Of a network that is not Wan's."""

    network: ClassVar[str] = "elsewhere:OtherTransformer"


def test_another_network(tmp_path: Path) -> None:
    config = OtherConfig.model_validate(CONFIG.model_dump())
    said = problem(tmp_path, PAIR, config)
    assert said == "lora: cannot be given for this model: its network is OtherTransformer"


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.ckpt", "a.pkl", "A.PT"])
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a pickle, which can run code: convert it to"):
        plan_adapter(tmp_path / name, TARGETS)


def test_other_files(tmp_path: Path) -> None:
    for name, what in (("a.gguf", "must be a .safetensors file"), ("gone.safetensors", "the file is missing")):
        with pytest.raises(ModelError, match=what):
            plan_adapter(tmp_path / name, TARGETS)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.truncate((4 << 30) + 1)
    with pytest.raises(ModelError, match=r"has 4294967297 bytes, at most 4294967296 are read"):
        plan_adapter(path, TARGETS)
