"""Write a checkpoint of a preset at full size with random weights, which take no space on disk.

    python -m zoetrope.benchmarks.random_checkpoint --preset wan2.7-27b --out wan2.7-27b

The folder has diffusers' layout and serves every task of the preset, producing noise: `zoetrope serve --model
wan2.7-27b`. The transformer has its full size; its folder has a marker instead of weights, which are drawn when it is
loaded (`model.checkpoints.random_weights`). The other parts are small, because denoising is what gets measured: the
autoencoder has the preset's class, ratios, channels and statistics but narrow layers; UMT5 has the preset's width, two
layers and nano's vocabulary; CLIP has the preset's width and three layers.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from zoetrope.benchmarks import command
from zoetrope.model.catalog.checkpoint_layout import RANDOM_NAME, RandomWeights
from zoetrope.model.catalog.identity import identify
from zoetrope.model.checkpoints.original import WAN22_AUTOENCODER
from zoetrope.model.families import PRESETS, family_of
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.family import AutoencoderKind, Contents, Family, Preset
from zoetrope.model.families.index import Index
from zoetrope.model.families.wan import WAN21_VAE, WAN22_VAE
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.nano.prompts import build_tokenizer, vocabulary

STD = 0.02
VAE_WIDTH = 8  # of the narrowest layer; at least 96 in the public ones
CLIP_TOKENS = 257  # per picture in the public CLIP: 16 x 16 patches and the class token
CLIP_PATCH = 14
DESCRIPTION = "full-size transformer with random weights; small autoencoder, text encoder and image encoder"


def write_random_checkpoint(preset: Preset, out: Path, seed: int = 0, std: float = STD) -> None:
    """Write the checkpoint to ``out``, which appears only when complete. Changes torch's seed.

    Args:
        seed: seed of all weights; a second noise expert uses the next one.
        std: standard deviation of the transformer's weights.

    Raises:
        ModelError: ``out`` exists or is named after another model, or the preset's autoencoder is not one of Wan's.
    """
    if os.path.lexists(out):
        raise ModelError(f"{out} already exists")
    if not out.parent.is_dir():
        raise ModelError(f"{out.parent} is not a directory")
    if preset.vae not in (WAN21_VAE, WAN22_VAE):
        raise ModelError(f"preset {preset.name}: the autoencoder {preset.vae.name} is not one of Wan's")
    _check_name(preset, out)
    torch.manual_seed(seed)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for number in range(preset.transformers):
            how = RandomWeights(seed=seed + number, std=std)
            _write_transformer(preset.config, how, work / ("transformer", "transformer_2")[number])
        _write_index(preset, work)
        small_autoencoder(preset.vae).save_pretrained(work / "vae")
        small_text_encoder(preset.config.text_dim).save_pretrained(work / "text_encoder")
        build_tokenizer().save_pretrained(work / "tokenizer")
        unipc(preset.sampling.shift).save_pretrained(work / "scheduler")
        if preset.config.image_dim is not None:
            _write_image_encoder(preset.config, work)
        work.chmod(0o755)
        os.rename(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def small_autoencoder(kind: AutoencoderKind) -> AutoencoderKLWan:
    """Return a narrow autoencoder with the levels, blocks and latents of the public one, and random weights."""
    more: dict[str, Any] = {}
    if kind == WAN22_VAE:
        more = {**WAN22_AUTOENCODER, "decoder_base_dim": VAE_WIDTH}
    return AutoencoderKLWan(
        base_dim=VAE_WIDTH,
        z_dim=kind.z_dim,
        scale_factor_spatial=kind.spatial,
        scale_factor_temporal=kind.temporal,
        **more,
    ).eval()


def small_text_encoder(width: int) -> UMT5EncoderModel:
    """Return an encoder of two layers and ``width`` channels for nano's tokenizer, with random weights."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(vocabulary()), d_model=width, d_kv=16, num_heads=2, d_ff=32, num_layers=2, dropout_rate=0.0
        )
    ).eval()


def small_image_encoder(width: int, image: int, patch: int) -> CLIPVisionModel:
    """Return an encoder of three layers and ``width`` channels for ``image x image`` pixels, with random weights."""
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=image,
            patch_size=patch,
        )
    ).eval()


def image_processor(image: int) -> Any:
    """Return CLIP's image processor for ``image x image`` pixels."""
    return CLIPImageProcessorPil(size={"shortest_edge": image}, crop_size={"height": image, "width": image})


def unipc(shift: float) -> UniPCMultistepScheduler:
    """Return a flow-matching UniPC scheduler."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _check_name(preset: Preset, out: Path) -> None:
    """Refuse a folder name that would be detected as another model, because the files alone are ambiguous."""
    family = family_of(preset.name)
    index = Index(out / "model_index.json", None, {}, declared=family.name if family.own_index is not None else "")
    contents = Contents(
        out,
        family.networks[0],
        preset.config,
        preset.transformers,
        expand_timesteps=_has_levels_per_token(family),
        index=index,
        shift=preset.sampling.shift,
    )
    found, _ = identify(contents, out)
    if (family_of(found.name).conditioner, found.sampling) != (family.conditioner, preset.sampling):
        raise ModelError(f"{out}: a folder with this name would be detected as {found.name}; name it {preset.name}")


def _has_levels_per_token(family: Family) -> bool:
    return family.conditioner == "first_latent"


def _write_transformer(config: TransformerConfig, how: RandomWeights, folder: Path) -> None:
    folder.mkdir()
    name = "WanVACETransformer3DModel" if config.vace_layers else "WanTransformer3DModel"
    value = config.model_dump(mode="json")
    _write_json(folder / "config.json", {"_class_name": "ZoetropeTransformer3DModel" if config.moe else name, **value})
    _write_json(folder / RANDOM_NAME, how.model_dump())


def _write_image_encoder(config: TransformerConfig, root: Path) -> None:
    assert config.image_dim is not None
    tokens = CLIP_TOKENS if config.pos_embed_seq_len is None else config.pos_embed_seq_len // 2
    image = CLIP_PATCH * math.isqrt(tokens - 1)
    small_image_encoder(config.image_dim, image, CLIP_PATCH).save_pretrained(root / "image_encoder")
    image_processor(image).save_pretrained(root / "image_processor")


def _write_index(preset: Preset, root: Path) -> None:
    """Write the index as the public checkpoints do; Bernini-R has a configuration instead."""
    pair, family = preset.transformers == 2, family_of(preset.name)
    if family.own_index is not None:
        value = {
            "model_type": family.own_index.model_type,
            "architectures": ["BerniniRendererModel"],
            "skip_transformer_2": not pair,
        }
        value |= {"switch_dit_boundary": preset.sampling.boundary or 0.0, "use_src_id_rotary_emb": True}
        _write_json(root / "config.json", value)
        return
    kind = json.loads((root / "transformer" / "config.json").read_text())["_class_name"]
    library = "zoetrope" if kind.startswith("Zoetrope") else "diffusers"
    image = preset.config.image_dim is not None
    index: dict[str, Any] = {
        "_class_name": family.pipelines[0],
        "transformer": [library, kind],
        "transformer_2": [library, kind] if pair else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "image_encoder": ["transformers", "CLIPVisionModel"] if image else [None, None],
        "image_processor": ["transformers", "CLIPImageProcessor"] if image else [None, None],
        "expand_timesteps": _has_levels_per_token(family),
        "boundary_ratio": preset.sampling.boundary if pair else None,
    }
    _write_json(root / "model_index.json", index)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("random_checkpoint", __doc__)
    parser.add_argument("--preset", required=True, choices=sorted(PRESETS), help="model to imitate")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, named after the preset")
    parser.add_argument("--seed", type=command.at_least(0), default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--std", type=float, default=STD, help="deviation of the transformer's weights (default: 0.02)")
    args = parser.parse_args(arguments)
    if not 0 < args.std < math.inf:
        parser.error(f"--std must be above 0 and finite, not {args.std}")
    try:
        write_random_checkpoint(PRESETS[args.preset], args.out, args.seed, args.std)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.preset}, {DESCRIPTION}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
