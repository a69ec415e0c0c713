"""The presets: every model of the family as code, whether or not its weights are here. Needs no torch.

Shapes and sampling constants are those of the public checkpoints and of Wan's own inference code; no weights of a
Wan 2.7 are public, so the two of that name are ours, derived from public ones by `zoetrope upcycle`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from model.config import MoEConfig, TransformerConfig
from model.sizes import Size, denoised_size

# How pictures and clips enter (`model.conditioning`): as streams of their own (nano's way or Bernini-R's), as the clean
# first latent frame, as channels beside the noise, or as VACE's hints.
ConditionerKind = Literal["streams", "bernini", "first_latent", "channels", "vace"]


@dataclass(frozen=True)
class AutoencoderKind:
    """An AutoencoderKLWan: latent channels, pixels per cell, frames per latent frame after the first."""

    name: str
    z_dim: int
    spatial: int
    temporal: int = 4


WAN21_VAE = AutoencoderKind("Wan2.1", 16, 8)
WAN22_VAE = AutoencoderKind("Wan2.2", 48, 16)


@dataclass(frozen=True)
class Sampling:
    """Defaults of a checkpoint. ``boundary`` is the share of the noise levels above which the first of two noise
    experts works, ``guidance_low`` the scale of the other. ``size`` is a name of `model.sizes.SIZES`;
    ``trained_sizes`` (width, height) are those of the training that differ from all of them."""

    fps: int
    frames: int
    steps: int
    shift: float
    guidance: float
    guidance_low: float | None = None
    boundary: float | None = None
    size: str = "480p"
    trained_sizes: tuple[Size, ...] = ()
    negative_prompt: str = ""


@dataclass(frozen=True)
class Upcycling:
    """How a dense checkpoint becomes one with experts: every feed-forward layer but the outer ``dense_ends`` on each
    side is cut into ``slices``, each with ``replicas`` copies of which a token takes one."""

    base: str
    slices: int
    replicas: int
    dense_ends: int


@dataclass(frozen=True)
class Preset:
    """A model of the family. ``transformers`` is 2 where two noise experts take turns; ``native_sizes`` are set
    where it denoises at no others, whatever is asked for."""

    name: str
    weights: str  # the public checkpoint, or the preset it is derived from
    config: TransformerConfig
    vae: AutoencoderKind
    sampling: Sampling
    conditioner: ConditionerKind = "streams"
    transformers: int = 1
    upcycling: Upcycling | None = None
    native_sizes: tuple[Size, ...] = ()

    def denoised_size(self, width: int, height: int) -> Size:
        """Give the size that a clip of ``width x height`` is denoised at."""
        unit = self.vae.spatial * self.config.patch_size[1]
        return denoised_size((width, height), unit, self.native_sizes, self.sampling.trained_sizes)


def upcycled(config: TransformerConfig, how: Upcycling) -> TransformerConfig:
    """The configuration with experts in place of the inner feed-forward layers.

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


def _wan(dim: int, layers: int, ffn_dim: int, **more: object) -> TransformerConfig:
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


def _small(**more: object) -> TransformerConfig:
    return _wan(1536, 30, 8960, **more)


def _large(**more: object) -> TransformerConfig:
    return _wan(5120, 40, 13824, **more)


_CLIP: dict[str, object] = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
_TI2V = _wan(3072, 30, 14336, in_channels=48, out_channels=48)
# The negative prompt that Wan's own code takes for every one of its models where a request names none: garish colours,
# overexposure, stills, blurred detail, subtitles, grey cast, low quality, malformed hands and faces, cluttered ground,
# many people behind, walking backwards.
WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
    "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)
_WAN21 = Sampling(fps=16, frames=81, steps=50, shift=5.0, guidance=5.0, negative_prompt=WAN_NEGATIVE_PROMPT)
_WAN21_I2V = replace(_WAN21, steps=40, size="720p")
_WAN21_I2V_480 = replace(_WAN21, steps=40, shift=3.0)
_FLF2V = replace(_WAN21, shift=16.0, size="720p")
_VACE = replace(_WAN21, shift=16.0)
_TI2V_SAMPLING = replace(_WAN21, fps=24, frames=121, size="720p", trained_sizes=((1280, 704), (704, 1280)))
_T2V_A14B = replace(_WAN21, steps=40, shift=12.0, guidance=4.0, guidance_low=3.0, boundary=0.875)
_I2V_A14B = replace(_WAN21, steps=40, guidance=3.5, guidance_low=3.5, boundary=0.9)
_BERNINI = replace(_WAN21, steps=40, shift=3.0, guidance=4.0)
_C = Upcycling("wan2.2-ti2v-5b", slices=8, replicas=10, dense_ends=1)
_B = Upcycling("wan2.1-t2v-14b", slices=12, replicas=4, dense_ends=5)

FAMILY: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("wan2.7-27b", _C.base, upcycled(_TI2V, _C), WAN22_VAE, _TI2V_SAMPLING, "first_latent", upcycling=_C),
        Preset("wan2.7-27b-wide", _B.base, upcycled(_large(), _B), WAN21_VAE, _WAN21, upcycling=_B),
        Preset(
            "wan2.2-t2v-a14b",
            "Wan-AI/Wan2.2-T2V-A14B",
            _large(),
            WAN21_VAE,
            _T2V_A14B,
            transformers=2,
        ),
        Preset(
            "wan2.2-i2v-a14b",
            "Wan-AI/Wan2.2-I2V-A14B",
            _large(in_channels=36),
            WAN21_VAE,
            _I2V_A14B,
            "channels",
            transformers=2,
        ),
        Preset(
            "bernini-r",
            "ByteDance/Bernini-R-Diffusers",
            _large(),
            WAN21_VAE,
            replace(_BERNINI, boundary=0.875),
            "bernini",
            transformers=2,
        ),
        Preset(
            "bernini-r-1.3b",
            "ByteDance/Bernini-R-1.3B-Diffusers",
            _small(),
            WAN21_VAE,
            _BERNINI,
            "bernini",
        ),
        Preset("wan2.2-ti2v-5b", "Wan-AI/Wan2.2-TI2V-5B", _TI2V, WAN22_VAE, _TI2V_SAMPLING, "first_latent"),
        Preset("wan2.1-t2v-14b", "Wan-AI/Wan2.1-T2V-14B", _large(), WAN21_VAE, _WAN21),
        Preset("wan2.1-t2v-1.3b", "Wan-AI/Wan2.1-T2V-1.3B", _small(), WAN21_VAE, _WAN21),
        Preset(
            "wan2.1-i2v-14b-480p", "Wan-AI/Wan2.1-I2V-14B-480P", _large(**_CLIP), WAN21_VAE, _WAN21_I2V_480, "channels"
        ),
        Preset("wan2.1-i2v-14b-720p", "Wan-AI/Wan2.1-I2V-14B-720P", _large(**_CLIP), WAN21_VAE, _WAN21_I2V, "channels"),
        Preset(
            "wan2.1-flf2v-14b",
            "Wan-AI/Wan2.1-FLF2V-14B-720P",
            _large(**_CLIP, pos_embed_seq_len=514),
            WAN21_VAE,
            _FLF2V,
            "channels",
        ),
        Preset(
            "wan2.1-vace-14b",
            "Wan-AI/Wan2.1-VACE-14B",
            _large(vace_layers=tuple(range(0, 40, 5))),
            WAN21_VAE,
            _VACE,
            "vace",
        ),
        Preset(
            "wan2.1-vace-1.3b",
            "Wan-AI/Wan2.1-VACE-1.3B",
            _small(vace_layers=tuple(range(0, 30, 2))),
            WAN21_VAE,
            _VACE,
            "vace",
        ),
    )
}
