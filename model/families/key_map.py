"""Map tensor names of the original Wan checkpoints to those of diffusers and transformers. Needs no torch.

The original names are those of the modules in the Wan2.1 and Wan2.2 code releases; the others are what diffusers'
WanTransformer3DModel, WanVACETransformer3DModel and AutoencoderKLWan and transformers' UMT5EncoderModel call the same
tensors. Every map is one to one; no tensor is split or transposed. Unknown names stay as they are, so that the loader
can report them.
"""

from __future__ import annotations

import re

TRANSFORMER_STEMS = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_ATTENTION_PARTS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE_PARTS = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
BLOCK_STEMS = {
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION_PARTS.items()},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in (_ATTENTION_PARTS | _IMAGE_PARTS).items()},
    # The original numbers its norms in order of definition, diffusers in order of use.
    "norm2": "norm3",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
    "before_proj": "proj_in",  # of VACE
    "after_proj": "proj_out",
}
_BLOCK = re.compile(r"^((?:vace_)?blocks\.\d+\.)(.+)$")
_TRANSFORMER_STEMS_BACK = {ours: original for original, ours in TRANSFORMER_STEMS.items()}
_BLOCK_STEMS_BACK = {ours: original for original, ours in BLOCK_STEMS.items()}

TEXT_STEMS = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
TEXT_BLOCK_STEMS = {
    **{f"attn.{part}": f"layer.0.SelfAttention.{part}" for part in "qkvo"},
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
LLAMA_TEXT_STEMS = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
LLAMA_TEXT_BLOCK_STEMS = {
    **{f"attn_{part}": f"layer.0.SelfAttention.{part}" for part in "qkvo"},
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}
_LLAMA_TEXT_BLOCK = re.compile(r"^enc\.blk\.(\d+)\.(.+)$")
_TEXT_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")

_VAE_STEMS = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_VAE_HALF_STEMS = {
    "conv1": "conv_in",
    "head.0": "norm_out",
    "head.2": "conv_out",
    "middle.1": "mid_block.attentions.0",
    "middle.0": "mid_block.resnets.0",
    "middle.2": "mid_block.resnets.1",
}
_RESNET_PARTS = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_VAE_HALF = re.compile(r"^(encoder|decoder)\.(.+)$")
_VAE_FLAT = re.compile(r"^(down|up)samples\.(\d+)\.(.+)$")
_VAE_NESTED = re.compile(r"^(down|up)samples\.(\d+)\.(down|up)samples\.(\d+)\.(.+)$")


def transformer_name(original: str) -> str:
    """``blocks.3.self_attn.q.weight`` -> ``blocks.3.attn1.to_q.weight``."""
    if match := _BLOCK.match(original):
        return match[1] + _rename(match[2], BLOCK_STEMS)
    return _rename(original, TRANSFORMER_STEMS)


def original_transformer_name(name: str) -> str:
    """Invert `transformer_name`; a name without a weight, bias or other leaf is one of a module."""
    if match := _BLOCK.match(name):
        return match[1] + _rename(match[2], _BLOCK_STEMS_BACK)
    return _rename(name, _TRANSFORMER_STEMS_BACK)


def text_encoder_name(original: str) -> str:
    """``blocks.3.ffn.gate.0.weight`` -> ``encoder.block.3.layer.1.DenseReluDense.wi_0.weight``."""
    if match := _TEXT_BLOCK.match(original):
        return f"encoder.block.{match[1]}." + _rename(match[2], TEXT_BLOCK_STEMS)
    return _rename(original, TEXT_STEMS)


def llama_text_encoder_name(llama: str) -> str:
    """``enc.blk.3.ffn_gate.weight``, as llama.cpp names a T5's tensors, -> as `text_encoder_name`."""
    if match := _LLAMA_TEXT_BLOCK.match(llama):
        return f"encoder.block.{match[1]}." + _rename(match[2], LLAMA_TEXT_BLOCK_STEMS)
    return _rename(llama, LLAMA_TEXT_STEMS)


def autoencoder_name(original: str, res_blocks: int = 2) -> str:
    """``decoder.upsamples.4.residual.0.gamma`` -> ``decoder.up_blocks.1.resnets.0.norm1.gamma``.

    The Wan2.1 autoencoder numbers the layers of all its levels in a row, the one of Wan2.2 has a list for each level.
    Both original classes have two residual blocks a level when encoding, and one more when decoding.
    """
    match = _VAE_HALF.match(original)
    if not match:
        return _rename(original, _VAE_STEMS)
    half, rest = match.groups()
    return f"{half}.{_autoencoder_half_name(rest, res_blocks)}"


def _autoencoder_half_name(rest: str, res_blocks: int) -> str:
    if nested := _VAE_NESTED.match(rest):
        way, level, _, layer, leaf = nested.groups()
        if leaf.startswith(("resample.", "time_conv.")):
            return f"{way}_blocks.{level}.{way}sampler.{leaf}"
        return f"{way}_blocks.{level}.resnets.{layer}.{_rename(leaf, _RESNET_PARTS)}"
    if flat := _VAE_FLAT.match(rest):
        way, layer, leaf = flat.groups()
        if way == "down":
            return f"down_blocks.{layer}.{_rename(leaf, _RESNET_PARTS)}"
        level, place = divmod(int(layer), res_blocks + 2)
        if place == res_blocks + 1:
            return f"up_blocks.{level}.upsamplers.0.{leaf}"
        return f"up_blocks.{level}.resnets.{place}.{_rename(leaf, _RESNET_PARTS)}"
    for stem, name in _VAE_HALF_STEMS.items():
        if rest.startswith(f"{stem}."):
            leaf = rest.removeprefix(f"{stem}.")
            return f"{name}.{_rename(leaf, _RESNET_PARTS)}"
    return rest


def _rename(name: str, stems: dict[str, str]) -> str:
    """Look up the whole name, or the name without ``.weight``, ``.bias`` or ``.gamma``."""
    stem, dot, leaf = name.rpartition(".")
    if name in stems:
        return stems[name]
    return stems[stem] + dot + leaf if stem in stems else name
