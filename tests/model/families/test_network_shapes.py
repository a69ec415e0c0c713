"""Shapes told from configurations are those of the real networks."""

from __future__ import annotations

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from tests.fixtures.small_presets import small_preset
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.families import PRESETS
from zoetrope.model.families.nano import NANO_DIRECTORY
from zoetrope.model.families.network_shapes import text_encoder_shapes, transformer_shapes
from zoetrope.model.network.costs import network_shapes


@pytest.mark.parametrize("name", PRESETS)
def test_transformers_of_the_family(name: str) -> None:
    config = small_preset(PRESETS[name]).config
    assert transformer_shapes(config) == network_shapes(config)
    plain = config.model_copy(update={"cross_attn_norm": False})
    assert transformer_shapes(plain) == network_shapes(plain)


def test_nano() -> None:
    config = transformer_config(read_transformers(NANO_DIRECTORY)[0])
    assert config.moe is not None and config.moe.shared_dim
    assert transformer_shapes(config) == network_shapes(config)


def test_the_text_encoder() -> None:
    config = UMT5Config(vocab_size=9, d_model=8, d_kv=4, num_heads=3, d_ff=16, num_layers=2)
    with torch.device("meta"):
        real = UMT5EncoderModel(config).state_dict()
    del real["encoder.embed_tokens.weight"]
    assert text_encoder_shapes(config.to_dict()) == {name: tuple(tensor.shape) for name, tensor in real.items()}
