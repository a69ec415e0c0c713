"""Which models there are, and what a directory's configuration says that it can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS, all_presets
from zoetrope.model.families.family import Upcycling
from zoetrope.model.families.wan import upcycled
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.kinds import TASK_KINDS

WAN21 = {"z_dim": 16, "_class_name": "AutoencoderKLWan"}
WAN22 = {"z_dim": 48, "_class_name": "AutoencoderKLWan", "scale_factor_spatial": 16}
SMALL = {
    "_class_name": "WanTransformer3DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 8,
    "ffn_dim": 16,
    "num_layers": 2,
}


SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}


def write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def checkpoint(
    root: Path,
    transformer: dict[str, Any],
    vae: dict[str, Any] = WAN21,
    index: dict[str, Any] | None = None,
    pair: bool = False,
) -> Path:
    """Configurations alone, as a gateway has them."""
    write(root / "model_index.json", index or {})
    write(root / "transformer" / "config.json", SMALL | transformer)
    if pair:
        write(root / "transformer_2" / "config.json", SMALL | transformer)
    write(root / "vae" / "config.json", vae)
    write(root / "text_encoder" / "config.json", {"model_type": "umt5", "d_model": 8})
    if "image_dim" in transformer:
        write(root / "image_encoder" / "config.json", {"model_type": "clip_vision_model", "hidden_size": 12})
    write(root / "scheduler" / "scheduler_config.json", SCHEDULER)
    (root / "tokenizer").mkdir()
    return root


def test_the_family_is_that_of_the_design() -> None:
    assert list(all_presets()) == [
        "wan2.7-27b",
        "wan2.7-27b-wide",
        "wan2.2-t2v-a14b",
        "wan2.2-i2v-a14b",
        "bernini-r",
        "bernini-r-1.3b",
        "wan2.2-ti2v-5b",
        "wan2.1-t2v-14b",
        "wan2.1-t2v-1.3b",
        "wan2.1-i2v-14b-480p",
        "wan2.1-i2v-14b-720p",
        "wan2.1-flf2v-14b",
        "wan2.1-vace-14b",
        "wan2.1-vace-1.3b",
        "nano",
        "nano-4step",
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_agree_with_themselves(name: str) -> None:
    preset = PRESETS[name]
    assert preset.config.attention_head_dim == 128
    assert preset.config.out_channels == preset.vae.z_dim
    assert (preset.sampling.boundary is not None) == (preset.transformers == 2)
    assert (preset.sampling.frames - 1) % preset.vae.temporal == 0
    with pytest.raises(ModelError, match="without weights of its own: give the directory"):
        find_model(name)


@pytest.mark.parametrize("name", ["wan2.7-27b", "wan2.7-27b-wide"])
def test_derived_presets_say_what_they_come_from(name: str) -> None:
    how = PRESETS[name].upcycling
    assert how is not None
    assert PRESETS[name].config == upcycled(PRESETS[how.base].config, how)
    assert PRESETS[name].vae == PRESETS[how.base].vae
    with pytest.raises(ModelError, match=f"zoetrope upcycle SRC DST --preset {name}, SRC being {how.base}"):
        find_model(name)


def test_experts_of_the_derived_presets() -> None:
    first, wide = (PRESETS[name].config.moe for name in ("wan2.7-27b", "wan2.7-27b-wide"))
    assert first is not None and wide is not None
    assert (first.num_experts, first.expert_dim, first.top_k, first.layers) == (80, 1792, 8, tuple(range(1, 29)))
    assert (wide.num_experts, wide.expert_dim, wide.top_k, wide.layers) == (48, 1152, 12, tuple(range(5, 35)))
    with pytest.raises(ValueError, match="already has experts"):
        upcycled(PRESETS["wan2.7-27b"].config, Upcycling("wan2.2-ti2v-5b", 8, 10, 1))


@pytest.mark.parametrize(
    ("name", "fields", "options", "conditioner", "tasks"),
    [
        ("t2v", {}, {}, "streams", ("text_to_video",)),
        ("Bernini-R-1.3B", {}, {}, "bernini", ("text_to_video", "grid_to_video", "reference_to_video", "edit_video")),
        ("i2v", {"in_channels": 36, "image_dim": 12, "added_kv_proj_dim": 48}, {}, "channels", ("image_to_video",)),
        (
            "flf",
            {"in_channels": 36, "image_dim": 12, "added_kv_proj_dim": 48, "pos_embed_seq_len": 514},
            {},
            "channels",
            ("first_last_frame",),
        ),
        ("a14b", {"in_channels": 36}, {"pair": True}, "channels", ("image_to_video", "first_last_frame")),
        (
            "ti2v",
            {"in_channels": 48, "out_channels": 48},
            {"vae": WAN22, "index": {"expand_timesteps": True}},
            "first_latent",
            ("text_to_video", "image_to_video"),
        ),
        ("vace", {"_class_name": "WanVACETransformer3DModel", "vace_layers": [0]}, {}, "vace", TASK_KINDS),
    ],
)
def test_families_are_told_by_their_configuration(
    tmp_path: Path, name: str, fields: dict[str, Any], options: dict[str, Any], conditioner: str, tasks: tuple[str, ...]
) -> None:
    card = find_model(str(checkpoint(tmp_path / name, fields, **options)))
    assert (card.conditioner, card.tasks) == (conditioner, tuple(tasks))
    assert card.latent_channels == (48 if options.get("vae") is WAN22 else 16)


def test_two_noise_experts_have_a_boundary_and_one_has_none(tmp_path: Path) -> None:
    index = {"boundary_ratio": 0.6}
    assert find_model(str(checkpoint(tmp_path / "leaked", {}, index=index))).boundary is None
    assert find_model(str(checkpoint(tmp_path / "pair", {}, index=index, pair=True))).boundary == 0.6
    silent = find_model(str(checkpoint(tmp_path / "silent", {}, pair=True)))
    assert (silent.boundary, silent.default_guidance, silent.default_guidance_low) == (0.875, 4.0, 3.0)
    with pytest.raises(ModelError, match=r"boundary_ratio is 1\.5, must be between 0 and 1"):
        find_model(str(checkpoint(tmp_path / "wrong", {}, index={"boundary_ratio": 1.5}, pair=True)))


def test_the_two_experts_must_agree(tmp_path: Path) -> None:
    root = checkpoint(tmp_path / "pair", {}, pair=True)
    write(root / "transformer_2" / "config.json", SMALL | {"num_layers": 3})
    with pytest.raises(ModelError, match=r"transformer_2/config\.json: differs from .*transformer/config\.json"):
        find_model(str(root))


@pytest.mark.parametrize(
    ("fields", "vae", "message"),
    [
        ({"in_channels": 32}, WAN21, "takes 32 channels and gives 16, the autoencoder has 16; expected 16 or 36"),
        ({}, WAN22, "takes 16 channels and gives 16, the autoencoder has 48"),
        ({"_class_name": "WanAnimateTransformer3DModel"}, WAN21, "_class_name is 'WanAnimateTransformer3DModel'"),
        ({}, {"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL'"),
        ({"num_layers": 0}, WAN21, r"transformer/config\.json: num_layers: "),
    ],
)
def test_other_families_are_refused(tmp_path: Path, fields: dict[str, Any], vae: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_model(str(checkpoint(tmp_path / "other", fields, vae)))


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(tmp_path: Path, component: str) -> None:
    root = checkpoint(tmp_path / "partial", {})
    (root / component).rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"partial/{component}: the directory is missing"):
        find_model(str(root))


ORIGINAL = {
    "_class_name": "WanModel",
    "model_type": "t2v",
    "dim": 48,
    "num_heads": 2,
    "num_layers": 2,
    "ffn_dim": 16,
    "in_dim": 16,
    "out_dim": 16,
}


@pytest.mark.parametrize("key", ["model_type", "dim", "num_heads", "num_layers", "ffn_dim", "in_dim", "out_dim"])
def test_keys_that_an_original_configuration_needs(tmp_path: Path, key: str) -> None:
    write(tmp_path / "config.json", {name: value for name, value in ORIGINAL.items() if name != key})
    with pytest.raises(ModelError, match=rf"config\.json: {key}"):
        find_model(str(tmp_path))


def test_original_layouts_of_other_models_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "config.json", ORIGINAL | {"model_type": "s2v"})
    with pytest.raises(ModelError, match="model_type is 's2v', expected one of t2v, i2v, flf2v, vace, ti2v"):
        find_model(str(tmp_path))
    write(tmp_path / "config.json", ORIGINAL | {"_class_name": "WanModel_S2V"})
    with pytest.raises(
        ModelError, match=r"config\.json: _class_name is 'WanModel_S2V', expected WanModel or VaceWanModel"
    ):
        find_model(str(tmp_path))


def test_an_original_ti2v_is_told_by_its_type(tmp_path: Path) -> None:
    write(tmp_path / "config.json", ORIGINAL | {"model_type": "ti2v", "in_dim": 48, "out_dim": 48})
    (tmp_path / "Wan2.2_VAE.pth").touch()
    card = find_model(str(tmp_path))
    assert (card.conditioner, card.fps, card.size_multiple) == ("first_latent", 24, 32)
