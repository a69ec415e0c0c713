"""The names of Wan's own releases against those of diffusers, by diffusers' own converters where it has one."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from transformers import UMT5Config, UMT5EncoderModel

from tests.fixtures.original_checkpoints import (
    original_autoencoder_name,
    original_text_encoder_name,
    original_transformer_name,
)
from zoetrope.model.families import key_map
from zoetrope.model.families.key_map import autoencoder_name, text_encoder_name, transformer_name

SHAPE = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 16,
    "num_layers": 12,  # two digits: layer 1 must not swallow layer 10
    "image_dim": 12,
    "added_kv_proj_dim": 48,
}


def names_of(network: torch.nn.Module) -> set[str]:
    return set(network.state_dict())


@pytest.mark.parametrize("vace", [False, True])
def test_transformer_names_are_those_that_diffusers_converts_to(vace: bool) -> None:
    with torch.device("meta"):
        network = WanVACETransformer3DModel(**SHAPE, vace_layers=[0, 5]) if vace else WanTransformer3DModel(**SHAPE)
    names = names_of(network)
    originals = {original_transformer_name(name) for name in names}
    assert len(originals) == len(names)
    assert {transformer_name(original) for original in originals} == names
    assert {key_map.original_transformer_name(name) for name in names} == originals
    assert set(convert_wan_transformer_to_diffusers({original: torch.zeros(0) for original in originals})) == names


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("blocks.3.self_attn.q.weight", "blocks.3.attn1.to_q.weight"),
        ("blocks.3.norm3.weight", "blocks.3.norm2.weight"),
        ("blocks.3.modulation", "blocks.3.scale_shift_table"),
        ("blocks.11.cross_attn.k_img.bias", "blocks.11.attn2.add_k_proj.bias"),
        ("vace_blocks.0.before_proj.weight", "vace_blocks.0.proj_in.weight"),
        ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
        ("head.modulation", "scale_shift_table"),
        ("patch_embedding.weight", "patch_embedding.weight"),
        ("blocks.3.lora.weight", "blocks.3.lora.weight"),
    ],
)
def test_single_transformer_names(original: str, expected: str) -> None:
    assert transformer_name(original) == expected


def test_text_encoder_names() -> None:
    with torch.device("meta"):
        network = UMT5EncoderModel(UMT5Config(vocab_size=9, d_model=8, d_kv=4, num_heads=2, d_ff=6, num_layers=11))
    names = names_of(network) - {"encoder.embed_tokens.weight"}
    originals = {original_text_encoder_name(name) for name in names}
    assert {text_encoder_name(original) for original in originals} == names
    assert {"token_embedding.weight", "blocks.10.attn.q.weight", "blocks.0.pos_embedding.embedding.weight"} <= originals
    assert text_encoder_name("blocks.4.ffn.gate.0.weight") == "encoder.block.4.layer.1.DenseReluDense.wi_0.weight"


def test_autoencoder_names_of_wan21() -> None:
    with torch.device("meta"):
        names = names_of(AutoencoderKLWan(base_dim=4))
    originals = {original_autoencoder_name(name) for name in names}
    assert set(convert_wan_vae_to_diffusers(dict.fromkeys(originals))) == names
    assert {autoencoder_name(original) for original in originals} == names


def test_autoencoder_names_of_wan22() -> None:
    with torch.device("meta"):
        network = AutoencoderKLWan(
            base_dim=4, decoder_base_dim=4, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2
        )
    names = names_of(network)
    originals = {original_autoencoder_name(name, nested=True) for name in names}
    assert {autoencoder_name(original) for original in originals} == names
    assert "decoder.upsamples.0.upsamples.3.time_conv.weight" in originals
    assert "encoder.downsamples.0.downsamples.2.resample.1.weight" in originals
