"""Tell from its header what a single weight file holds, and derive its configuration from shapes. Needs no torch.

Files as ComfyUI, Kijai, LightX2V and the GGUF converters of city96 and QuantStack publish them hold one network and no
configuration. Names are Wan's own, diffusers' or transformers', or llama.cpp's for text encoders, behind one of a few
prefixes. Which noise expert of a pair a file holds is in no shape: the caller says it, and a name may contradict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from zoetrope.model.families.config import MAX_LAYERS
from zoetrope.model.families.key_map import (
    autoencoder_name,
    llama_text_encoder_name,
    text_encoder_name,
    transformer_name,
)
from zoetrope.model.inspection.files import ModelError, check_is_content
from zoetrope.model.inspection.headers import FileContents, read_contents
from zoetrope.model.inspection.keys import layer_counts
from zoetrope.model.inspection.packed import MARKER, TOKENIZER_TENSOR, logical_headers, pack

FileKind = Literal["transformer", "vae", "text_encoder", "image_encoder"]
Shapes = Mapping[str, tuple[int, ...]]
SUFFIXES = (".safetensors", ".gguf")
# Pickles that are read, by the names under which Wan releases them; all others are refused.
OFFICIAL_PICKLES = (
    "models_t5_umt5-xxl-enc-bf16.pth",
    "Wan2.1_VAE.pth",
    "Wan2.2_VAE.pth",
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
)
TITLES = {
    "transformer": "a transformer",
    "vae": "an autoencoder",
    "text_encoder": "a text encoder",
    "image_encoder": "CLIP's vision tower",
}
HEAD_DIM = 128  # of every public Wan network
TI2V_CHANNELS = 48
_OPTIONS = {"transformer": "model", "vae": "vae", "text_encoder": "text-encoder", "image_encoder": "image-encoder"}
# A tensor that each kind has, by the names in which it may be written.
_SIGNS: dict[FileKind, tuple[tuple[str, Callable[[str], str]], ...]] = {
    "transformer": (("blocks.0.self_attn.q", transformer_name), ("blocks.0.attn1.to_q", str)),
    "vae": (("decoder.conv1", autoencoder_name), ("decoder.conv_in", str)),
    "text_encoder": (
        ("token_embedding", text_encoder_name),
        ("shared", str),
        ("token_embd", llama_text_encoder_name),
    ),
    "image_encoder": (("vision_model.embeddings.patch_embedding", str), ("visual.patch_embedding", str)),
}
_PREFIXES: dict[FileKind, tuple[str, ...]] = {
    "transformer": ("model.diffusion_model.", "diffusion_model.", "model.", "net.", "video_model.", ""),
    "vae": ("first_stage_model.", "vae.", "model.", ""),
    "text_encoder": ("text_encoder.", "model.", ""),
    "image_encoder": ("image_encoder.", "model.", ""),
}
_LORA = re.compile(r"lora_|\.lora|lokr_|hada_|\.diff(_[bm])?$|^lycoris_")
_VACE = re.compile(r"(^|\.)vace_(blocks\.0|patch_embedding)\.")
_SLA = re.compile(r"\.proj_l\.(weight|bias)$")
_PART_OF_SEVERAL = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
MAX_SHARDS = 1_000
# With these words "high" and "low" mean other things than the noise.
_QUALITIES = "quality|res|resolution|def|definition|fps|details?|contrast|key|light|poly|motion|speed|v?ram|memory|rank"
_SIDES = {
    side: re.compile(rf"{side}[-_ ]?noise|(^|[-_ .]){side}(?![-_ .]?({_QUALITIES})([-_ .]|$))([-_ .]|$)", re.IGNORECASE)
    for side in ("high", "low")
}


@dataclass(frozen=True)
class SingleFile:
    """The network in a file, or in several that belong together.

    Attributes:
        rename: maps names in the files, without ``prefix``, to those of the network.
        shapes: of all tensors, by those names. config: diffusers' fields, as far as the shapes show them.
        has_tokenizer: whether there is a tokenizer beside the weights.
    """

    kind: FileKind
    files: tuple[Path, ...]
    prefix: str
    rename: Callable[[str], str]
    shapes: Shapes
    config: dict[str, Any]
    has_tokenizer: bool = False


def read_single(path: Path, kind: FileKind) -> SingleFile:
    """Read what a file, or a folder of a file for each block, holds.

    Args:
        kind: what it must be.

    Raises:
        ModelError: it cannot be read, holds something else, or is of a kind that is refused.
    """
    files = _files(path)
    try:
        stamps = tuple((info.st_size, info.st_mtime_ns) for info in (file.stat() for file in files))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    return _read(path, kind, files, stamps)


@lru_cache(maxsize=16)
def _read(path: Path, kind: FileKind, files: tuple[Path, ...], _stamps: tuple[tuple[int, int], ...]) -> SingleFile:
    """Read files that have these sizes and times, once: a text encoder's header alone can have 250,000 texts."""
    contents = [read_contents(file) for file in files]
    names = {header.name for one in contents for header in one.headers}
    lora = any(_LORA.search(name) for name in names)
    found = None if lora else _recognised(names)
    if found is None or found[0] != kind:
        raise ModelError(f"{path}: {_what_else(names, found, kind)}")
    _, prefix, rename = found
    if strays := sorted(name for name in names if not name.startswith(prefix) and name != MARKER):
        raise ModelError(
            f"{path}: holds {strays[0]} beside {TITLES[kind]} under {prefix}: split the file, one network in each"
        )
    if sla := next((name for name in sorted(names) if _SLA.search(name)), None):
        raise ModelError(f"{path}: {sla} is of sparse-linear attention (SLA), which is not served: use a model without")
    shapes = {name: header.shape for name, header in logical_headers(pack(contents, prefix), rename).items()}
    config = _CONFIGS[kind](shapes, path)
    return SingleFile(kind, files, prefix, rename, shapes, config, _has_tokenizer(contents))


def is_split(folder: Path) -> bool:
    """Tell whether a folder has a file for each block, as LightX2V's converter writes them."""
    return folder.is_dir() and (folder / "block_0.safetensors").is_file()


def is_weight_file(path: Path) -> bool:
    """Tell whether a path is that of weights, by its name, or of a folder of a file for each block."""
    return path.suffix in (*SUFFIXES, *PICKLES) or is_split(path)


PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pkl")


def side_of(path: Path) -> str:
    """Return the noise expert that a file's name says, ``high`` or ``low``; "" if it says neither or both."""
    said = [side for side, pattern in _SIDES.items() if pattern.search(path.stem)]
    return said[0] if len(said) == 1 else ""


def _files(path: Path) -> tuple[Path, ...]:
    if is_split(path):
        return tuple(sorted(path.glob("*.safetensors")))
    check_is_content(path)
    if path.suffix in PICKLES and path.name not in OFFICIAL_PICKLES:
        raise ModelError(
            f"{path}: is a pickle, which is not loaded: use the safetensors or GGUF file of the model, or convert it"
        )
    if path.suffix not in (*SUFFIXES, *PICKLES):
        raise ModelError(f"{path}: must be a {' or '.join(SUFFIXES)} file")
    if match := _PART_OF_SEVERAL.fullmatch(path.name):
        stem, count = match[1], match[3]
        if int(count) > MAX_SHARDS:
            raise ModelError(f"{path}: is one of {count} files by its name, a model has at most {MAX_SHARDS}")
        files = [path.with_name(f"{stem}-{n:0{len(count)}}-of-{count}.safetensors") for n in range(1, int(count) + 1)]
        for file in files:
            check_is_content(file)
        return tuple(files)
    return (path,)


def _recognised(names: set[str]) -> tuple[FileKind, str, Callable[[str], str]] | None:
    """Find a kind, a prefix and names of which the signs are there; quantised weights have other last words."""
    stems = {name.rpartition(".")[0] for name in names}
    for kind, signs in _SIGNS.items():
        for prefix in _PREFIXES[kind]:
            for sign, rename in signs:
                if prefix + sign in stems:
                    return kind, prefix, rename
    return None


def _what_else(names: set[str], found: tuple[FileKind, str, Callable[[str], str]] | None, kind: FileKind) -> str:
    """Say what a file is that is not of the kind."""
    if any(_LORA.search(name) for name in names):
        return "is a LoRA, not a model: give the model it was made for, and this file with --lora"
    if found is not None:
        return f"is {TITLES[found[0]]}, not {TITLES[kind]}: give it with --{_OPTIONS[found[0]]}"
    if any(_VACE.search(name) for name in names):
        return "holds the blocks of VACE alone, without the model around them: use a whole VACE model"
    some = ", ".join(sorted(names)[:3]) or "nothing"
    return f"holds no {TITLES[kind].partition(' ')[2]} of a known kind, but {some}"


def _has_tokenizer(contents: list[FileContents]) -> bool:
    return any(
        "tokenizer.ggml.tokens" in one.fields or any(header.name == TOKENIZER_TENSOR for header in one.headers)
        for one in contents
    )


def _transformer(shapes: Shapes, path: Path) -> dict[str, Any]:
    """Return the fields of diffusers' ``config.json``; VACE's blocks are as far apart as in the public models."""
    if "patch_embedding.weight" not in shapes and any(_VACE.search(name) for name in shapes):
        raise ModelError(
            f"{path}: holds the blocks of VACE alone, without the model around them: use a whole VACE model"
        )
    dim, channels, *patch = _shape(shapes, "patch_embedding.weight", 5, path)
    if dim % HEAD_DIM:
        raise ModelError(f"{path}: patch_embedding.weight has {dim} outputs, Wan's networks have heads of {HEAD_DIM}")
    counts = layer_counts(set(shapes))
    layers, hints = counts.get("blocks", 0), counts.get("vace_blocks", 0)
    if not 0 < layers <= MAX_LAYERS:
        raise ModelError(f"{path}: has {layers} blocks, 1 to {MAX_LAYERS} are read")
    config: dict[str, Any] = {
        "_class_name": "WanVACETransformer3DModel" if hints else "WanTransformer3DModel",
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "in_channels": channels,
        "out_channels": _shape(shapes, "proj_out.weight", 2, path)[0] // math.prod(patch),
        "text_dim": _shape(shapes, "condition_embedder.text_embedder.linear_1.weight", 2, path)[1],
        "freq_dim": _shape(shapes, "condition_embedder.time_embedder.linear_1.weight", 2, path)[1],
        "ffn_dim": _shape(shapes, "blocks.0.ffn.net.0.proj.weight", 2, path)[0],
        "num_layers": layers,
        "patch_size": patch,
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
    }
    if channels == TI2V_CHANNELS:
        config["model_type"] = "ti2v"
    if "blocks.0.attn2.add_k_proj.weight" in shapes:
        image = "condition_embedder.image_embedder."
        config |= {"image_dim": _shape(shapes, f"{image}norm1.weight", 1, path)[0], "added_kv_proj_dim": dim}
        if f"{image}pos_embed" in shapes:
            config["pos_embed_seq_len"] = _shape(shapes, f"{image}pos_embed", 3, path)[1]
    if hints:
        if layers % hints:
            raise ModelError(f"{path}: has {hints} blocks of VACE for {layers} blocks, must divide them")
        config["vace_layers"] = list(range(0, layers, layers // hints))
        config["vace_in_channels"] = _shape(shapes, "vace_patch_embedding.weight", 5, path)[1]
    return config


def _autoencoder(shapes: Shapes, path: Path) -> dict[str, Any]:
    channels = _shape(shapes, "post_quant_conv.weight", 5, path)[0]
    spatial = 16 if channels == TI2V_CHANNELS else 8
    known = {"scale_factor_spatial": spatial, "scale_factor_temporal": 4}
    return {"_class_name": "AutoencoderKLWan", "z_dim": channels, **known}


def _text_encoder(shapes: Shapes, path: Path) -> dict[str, Any]:
    return {"d_model": _shape(shapes, "shared.weight", 2, path)[1]}


def _image_encoder(shapes: Shapes, path: Path) -> dict[str, Any]:
    for name in ("vision_model.embeddings.patch_embedding.weight", "visual.patch_embedding.weight"):
        if name in shapes:
            return {"hidden_size": _shape(shapes, name, 4, path)[0]}
    raise ModelError(f"{path}: holds no patch embedding of CLIP")


_CONFIGS: dict[FileKind, Callable[[Shapes, Path], dict[str, Any]]] = {
    "transformer": _transformer,
    "vae": _autoencoder,
    "text_encoder": _text_encoder,
    "image_encoder": _image_encoder,
}


def _shape(shapes: Shapes, name: str, dimensions: int, path: Path) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise ModelError(f"{path}: the weights lack {name}")
    if len(shape) != dimensions or 0 in shape:
        raise ModelError(f"{path}: {name} has shape {shape}, expected {dimensions} dimensions above 0")
    return shape
