"""Derive configurations that Wan's own releases lack from the shapes of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.keys import layer_counts

if TYPE_CHECKING:
    from zoetrope.model.checkpoints.weights import StoredTensor

# Mean and standard deviation of the 48 channels of the Wan2.2 autoencoder, from its code; the defaults of diffusers'
# class are those of Wan2.1.
WAN22_MEAN = """
-0.2289 -0.0052 -0.1323 -0.2339 -0.2799 0.0174 0.1838 0.1557 -0.1382 0.0542 0.2813 0.0891
0.1570 -0.0098 0.0375 -0.1825 -0.2246 -0.1207 -0.0698 0.5109 0.2665 -0.2108 -0.2158 0.2502
-0.2055 -0.0322 0.1109 0.1567 -0.0729 0.0899 -0.2799 -0.1230 -0.0313 -0.1649 0.0117 0.0723
-0.2839 -0.2083 -0.0520 0.3748 0.0152 0.1957 0.1433 -0.2944 0.3573 -0.0548 -0.1681 -0.0667
"""
WAN22_STD = """
0.4765 1.0364 0.4514 1.1677 0.5313 0.4990 0.4818 0.5013 0.8158 1.0344 0.5894 1.0901
0.6885 0.6165 0.8454 0.4978 0.5759 0.3523 0.7135 0.6804 0.5833 1.4146 0.8986 0.5659
0.7069 0.5338 0.4889 0.4917 0.4069 0.4999 0.6866 0.4093 0.5709 0.6065 0.6415 0.4944
0.5726 1.2042 0.5458 1.6887 0.3971 1.0600 0.3943 0.5537 0.5444 0.4089 0.7468 0.7744
"""
# Fields that the weights do not show.
WAN22_AUTOENCODER: dict[str, Any] = {
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "latents_mean": [float(x) for x in WAN22_MEAN.split()],
    "latents_std": [float(x) for x in WAN22_STD.split()],
}


def public_autoencoder(z_dim: int) -> dict[str, Any]:
    """Return fields of diffusers' AutoencoderKLWan for the public autoencoder with so many latent channels: 48 of
    Wan2.2, 16 of Wan2.1."""
    if z_dim != 48:
        return {"base_dim": 96, "z_dim": z_dim}
    shape = {"base_dim": 160, "decoder_base_dim": 256, "z_dim": z_dim, "scale_factor_spatial": 16}
    return {**WAN22_AUTOENCODER, **shape}


def text_encoder_config(tensors: Sequence[StoredTensor], where: Path) -> dict[str, Any]:
    """Return fields of transformers' UMT5Config.

    Raises:
        ModelError: a tensor that shows a width is missing or has the wrong rank.
    """
    shapes = _shapes(tensors)
    vocabulary, width = _shape(shapes, "shared.weight", 2, where)
    attention = "encoder.block.0.layer.0.SelfAttention"
    inner = _shape(shapes, f"{attention}.q.weight", 2, where)[0]
    buckets, heads = _shape(shapes, f"{attention}.relative_attention_bias.weight", 2, where)
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": _shape(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2, where)[0],
        "num_layers": layer_counts(set(shapes)).get("encoder.block", 0),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "dropout_rate": 0.0,
    }


def autoencoder_config(tensors: Sequence[StoredTensor], where: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Return fields of diffusers' AutoencoderKLWan; levels and blocks are those of the two public models."""
    shapes = _shapes(tensors)
    config = {**known, "base_dim": _shape(shapes, "encoder.conv_in.weight", 5, where)[0]}
    z_dim = _shape(shapes, "post_quant_conv.weight", 5, where)[0]
    if z_dim != known["z_dim"]:
        raise ModelError(f"{where}: the autoencoder has {z_dim} latent channels, expected {known['z_dim']} by its name")
    if z_dim == 48:
        width = _shape(shapes, "decoder.conv_out.weight", 5, where)[1]
        config |= {**WAN22_AUTOENCODER, "decoder_base_dim": width, "clip_output": False}
    return config


def _shapes(tensors: Sequence[StoredTensor]) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in tensors}


def _shape(shapes: dict[str, tuple[int, ...]], name: str, dimensions: int, where: Path) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise ModelError(f"{where}: the weights lack {name}")
    if len(shape) != dimensions:
        raise ModelError(f"{where}: {name} has shape {shape}, expected {dimensions} dimensions")
    return shape
