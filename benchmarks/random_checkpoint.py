"""A checkpoint of a preset at full size whose weights are random, and take no space on disk.

    python -m benchmarks.random_checkpoint --preset wan2.7-27b --out wan2.7-27b

The folder is in diffusers' layout and serves every task of the preset, with noise for clips:
`zoetrope serve --model wan2.7-27b`. The transformer is the preset's at full size; its folder has a marker in the place
of weights, which are drawn when it is loaded (`model.random_weights`). What is around it is small, for the figures to
be taken are those of denoising: the autoencoder has the preset's class, ratios, channels, means and deviations and
narrow layers, UMT5 the preset's width and two layers with nano's vocabulary, CLIP the preset's width and three layers.
"""

from __future__ import annotations

import argparse
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

from model.config import TransformerConfig
from model.directory import RANDOM_NAME, ModelError, RandomWeights
from model.family import WAN21_VAE, WAN22_VAE, AutoencoderKind, Preset
from model.identity import Contents, identify
from model.index import PIPELINES, RENDERER, Index
from model.nano.prompts import build_tokenizer, vocabulary
from model.original import WAN22_AUTOENCODER
from model.presets import FAMILY

STD = 0.02
VAE_WIDTH = 8  # of its narrowest layer; 96 and more in the public ones
CLIP_TOKENS = 257  # of one picture in the public CLIP: 16 x 16 patches and the class
CLIP_PATCH = 14
SAID = "transformer at full size with random weights; small autoencoder, text encoder and image encoder around it"


def write_random_checkpoint(preset: Preset, out: Path, seed: int = 0, std: float = STD) -> None:
    """Write the folder, beside ``out`` first and then in its place. Leaves torch's seed changed.

    Args:
        seed: of all weights; the second of two noise experts has the next one. std: of the transformer's.

    Raises:
        ModelError: ``out`` exists or is named after another model, or the preset's autoencoder is not one of Wan's.
    """
    if os.path.lexists(out):
        raise ModelError(f"{out}: exists already")
    if not out.parent.is_dir():
        raise ModelError(f"{out.parent}: is no directory")
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
    """Narrow, with the levels, blocks and latents of the public one; random weights."""
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
    """Two layers whose embeddings have ``width`` channels, for nano's tokenizer; random weights."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(vocabulary()), d_model=width, d_kv=16, num_heads=2, d_ff=32, num_layers=2, dropout_rate=0.0
        )
    ).eval()


def small_image_encoder(width: int, image: int, patch: int) -> CLIPVisionModel:
    """Three layers with tokens of ``width`` channels from pictures of ``image`` pixels a side; random weights."""
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
    """CLIP's, for pictures of ``image`` pixels a side."""
    return CLIPImageProcessorPil(size={"shortest_edge": image}, crop_size={"height": image, "width": image})


def unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _check_name(preset: Preset, out: Path) -> None:
    """Refuse a folder's name that is another model's, which would be believed where the files leave it open."""
    kind = "streams" if preset.conditioner == "bernini" else preset.conditioner
    index = Index(out / "model_index.json", None, {}, bernini=preset.conditioner == "bernini")
    contents = Contents(out, kind, preset.config, preset.transformers, index, preset.sampling.shift)
    found, _ = identify(contents, out)
    if (found.conditioner, found.sampling) != (preset.conditioner, preset.sampling):
        raise ModelError(f"{out}: a folder of this name would be taken for {found.name}, call it {preset.name}")


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
    """As the public checkpoints say what they are; Bernini-R by a configuration in the place of an index."""
    pair = preset.transformers == 2
    if preset.conditioner == "bernini":
        value = {"model_type": RENDERER, "architectures": ["BerniniRendererModel"], "skip_transformer_2": not pair}
        value |= {"switch_dit_boundary": preset.sampling.boundary or 0.0, "use_src_id_rotary_emb": True}
        _write_json(root / "config.json", value)
        return
    pipeline = next(name for name, kinds in PIPELINES.items() if preset.conditioner in kinds)
    kind = json.loads((root / "transformer" / "config.json").read_text())["_class_name"]
    library = "zoetrope" if kind.startswith("Zoetrope") else "diffusers"
    image = preset.config.image_dim is not None
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "transformer": [library, kind],
        "transformer_2": [library, kind] if pair else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "image_encoder": ["transformers", "CLIPVisionModel"] if image else [None, None],
        "image_processor": ["transformers", "CLIPImageProcessor"] if image else [None, None],
        "expand_timesteps": preset.conditioner == "first_latent",
        "boundary_ratio": preset.sampling.boundary if pair else None,
    }
    _write_json(root / "model_index.json", index)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", required=True, choices=sorted(FAMILY))
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, named after the preset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--std", type=float, default=STD, help="of the transformer's weights")
    args = parser.parse_args(arguments)
    if args.seed < 0 or not 0 < args.std < math.inf:
        parser.error(f"--seed is {args.seed}, at least 0; --std is {args.std}, above 0 and finite")
    try:
        write_random_checkpoint(FAMILY[args.preset], args.out, args.seed, args.std)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.preset}, {SAID}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
