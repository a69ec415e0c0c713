"""Load CLIP's vision tower from a single file: of Wan's own releases, or with transformers' names as ComfyUI has it.

Wan's has both towers of XLM-RoBERTa CLIP ViT-H/14; names and the order of its fused q, k and v follow the Wan2.1 code
release. The tensors become those of transformers' CLIPVisionModel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from zoetrope.model.catalog.checkpoint_layout import Component
from zoetrope.model.checkpoints.spans import Rows
from zoetrope.model.checkpoints.weights import StoredTensor, load_into, open_weights
from zoetrope.model.codecs.image_encoder import ImageEncoder
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.keys import layer_counts

HEAD_DIM = 80
TRANSFORMERS_PREFIX = "vision_model."
_STEMS = {
    "patch_embedding": "embeddings.patch_embedding",
    "pre_norm": "pre_layrnorm",
    "post_norm": "post_layernorm",
}
_LAYER_STEMS = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
_LAYER = re.compile(r"^transformer\.(\d+)\.(.+)\.(weight|bias)$")


def load_original_image_encoder(part: Component, device: torch.device) -> ImageEncoder:
    """Load it in float32, with the preprocessing of diffusers' converted checkpoints.

    Raises:
        ModelError: the file is missing or corrupt, lacks a tensor or holds NaN.
    """
    files = part.files
    with open_weights(files, prefix=part.prefix) as stored:
        tensors = [one for tensor in stored for one in _vision_tensors(tensor)]
        config = _config(tensors, files[0])
        with torch.device("meta"):
            network = CLIPVisionModel(config)
        load_into(network, tensors, files[0], device, torch.float32)
    positions = network.get_submodule("embeddings")
    positions.register_buffer(
        "position_ids", torch.arange(positions.num_positions, device=device)[None], persistent=False
    )
    side = config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return ImageEncoder(processor, network.eval().requires_grad_(False))


def _vision_tensors(tensor: StoredTensor) -> Iterator[StoredTensor]:
    """Rename a tensor: one of the vision tower becomes one or three; of the text tower none."""
    if tensor.name.startswith(TRANSFORMERS_PREFIX) and not tensor.name.endswith("position_ids"):
        yield replace(tensor, name=tensor.name.removeprefix(TRANSFORMERS_PREFIX))
    if not tensor.name.startswith("visual.") or tensor.name == "visual.head":
        return
    name = tensor.name.removeprefix("visual.")
    if name in ("cls_embedding", "pos_embedding"):
        position = name == "pos_embedding"
        shape = tensor.shape[1:] if position else tensor.shape[2:]
        new = "embeddings.position_embedding.weight" if position else "embeddings.class_embedding"
        yield replace(tensor, name=new, shape=shape, fetch=_reshaped(tensor, shape))
    elif match := _LAYER.match(name):
        layer, stem, leaf = match.groups()
        prefix = f"encoder.layers.{layer}."
        if stem != "attn.to_qkv":
            yield replace(tensor, name=f"{prefix}{_LAYER_STEMS.get(stem, stem)}.{leaf}")
            return
        rows = tensor.shape[0] // 3
        for index, part in enumerate("qkv"):
            shape = (rows, *tensor.shape[1:])
            fetch = _span(tensor, slice(index * rows, (index + 1) * rows))
            yield replace(tensor, name=f"{prefix}self_attn.{part}_proj.{leaf}", shape=shape, fetch=fetch)
    else:
        stem, _, leaf = name.rpartition(".")
        yield replace(tensor, name=f"{_STEMS.get(stem, stem)}.{leaf}")


def _reshaped(tensor: StoredTensor, shape: tuple[int, ...]) -> Callable[[Rows], torch.Tensor]:
    return lambda rows: tensor.fetch(None).reshape(shape)


def _span(tensor: StoredTensor, span: slice) -> Callable[[Rows], torch.Tensor]:
    return lambda rows: tensor.fetch(span)


def _config(tensors: Sequence[StoredTensor], path: Path) -> CLIPVisionConfig:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    try:
        width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
        positions = shapes["embeddings.position_embedding.weight"][0]
        hidden = shapes["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError):
        raise ModelError(f"{path}: holds no vision tower of CLIP under visual.* or vision_model.*") from None
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layer_counts(set(shapes)).get("encoder.layers", 0),
        num_attention_heads=width // HEAD_DIM,
        image_size=patch * round((positions - 1) ** 0.5),
        patch_size=patch,
        hidden_act="gelu",
    )
