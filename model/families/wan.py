"""What all Wan families share: one network, one folder layout, two autoencoders, sampling constants.

Shapes and constants are those of the public checkpoints and of Wan's own inference code.
"""

from __future__ import annotations

from functools import partial

from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.families.family import AutoencoderKind, Contents, Family, Sampling, Upcycling
from zoetrope.model.families.index import Components
from zoetrope.model.families.key_map import transformer_name
from zoetrope.model.families.network_shapes import transformer_shapes

NETWORKS = ("WanTransformer3DModel", "WanVACETransformer3DModel", "ZoetropeTransformer3DModel")
COMPONENTS = Components(
    required={
        "transformer": NETWORKS,
        "vae": ("AutoencoderKLWan", "LinearVideoAutoencoder"),
        "text_encoder": ("UMT5EncoderModel",),
        "tokenizer": (),
        "scheduler": (),
    },
    optional={
        "transformer_2": NETWORKS,
        "image_encoder": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
        "image_processor": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
    },
)
WAN21_VAE = AutoencoderKind("Wan2.1", 16, 8)
WAN22_VAE = AutoencoderKind("Wan2.2", 48, 16)
# The default negative prompt of Wan's own code for all its models: garish colours, overexposure, stills, blurred
# detail, subtitles, grey cast, low quality, malformed hands and faces, cluttered background, crowds, walking backwards.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
    "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)
SAMPLING = Sampling(fps=16, frames=81, steps=50, shift=5.0, guidance=5.0, negative_prompt=NEGATIVE_PROMPT)

# A Wan family adds to these how pictures and clips enter.
wan_family = partial(
    Family,
    networks=NETWORKS,
    config=TransformerConfig,
    shapes=transformer_shapes,
    original_name=transformer_name,
    components=COMPONENTS,
)


def takes_latents_alone(contents: Contents) -> bool:
    """Tell whether the network takes latents alone, at a single noise level."""
    config = contents.config
    return not (config.vace_layers or takes_channels(contents) or contents.expand_timesteps)


def takes_channels(contents: Contents) -> bool:
    """Tell whether a mask and the given frames are concatenated to the latents as channels."""
    config = contents.config
    return not config.vace_layers and config.in_channels != config.out_channels


def wan_config(dim: int, layers: int, ffn_dim: int, **more: object) -> TransformerConfig:
    """Return the configuration of a network with 128-wide heads and 16 latent channels; ``more`` overrides fields."""
    fields: dict[str, object] = {
        "num_attention_heads": dim // 128,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "ffn_dim": ffn_dim,
        "num_layers": layers,
        **more,
    }
    return TransformerConfig.model_validate(fields)


def wan_1b(**more: object) -> TransformerConfig:
    """Return the configuration of the 1.3B models."""
    return wan_config(1536, 30, 8960, **more)


def wan_14b(**more: object) -> TransformerConfig:
    """Return the configuration of the 14B models."""
    return wan_config(5120, 40, 13824, **more)


def upcycled(config: TransformerConfig, how: Upcycling) -> TransformerConfig:
    """Return the configuration with experts in place of the inner feed-forward layers.

    Raises:
        ValueError: the slices do not divide the feed-forward width, or no layer is left between the dense ends.
    """
    if config.moe is not None:
        raise ValueError("the source already has experts")
    if config.ffn_dim % how.slices:
        raise ValueError(f"ffn_dim is {config.ffn_dim}, which {how.slices} slices do not divide")
    layers = tuple(range(how.dense_ends, config.num_layers - how.dense_ends))
    if not layers:
        raise ValueError(f"num_layers is {config.num_layers}, more than {2 * how.dense_ends} are needed")
    moe = MoEConfig(
        layers=layers,
        num_experts=how.slices * how.replicas,
        top_k=how.slices,
        expert_dim=config.ffn_dim // how.slices,
        router="grouped_top1",
        groups=how.slices,
        expert_bias=True,
    )
    return config.model_copy(update={"moe": moe})
