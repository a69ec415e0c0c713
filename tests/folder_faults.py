"""Folders with one fault each, as broken downloads, conversions and other models have them, and what is to be said.

A fault is done to a copy of a small checkpoint; the message names the file or the key.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.original import write_rest, write_transformer
from tests.tiny import tiny_a14b, tiny_image_to_video, tiny_wan

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
DEEP = '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 9999\n"


@dataclass(frozen=True)
class Fault:
    """``base`` is a name of `write_bases`; ``message`` a part of what is said."""

    base: str
    damage: Callable[[Path], object]
    message: str


def write_bases(root: Path) -> Path:
    """Sound checkpoints, one for each way of a fault."""
    pipeline = tiny_wan(root / "t2v")
    tiny_a14b(root / "pair")
    tiny_image_to_video(root / "i2v", clip=True)
    write_transformer(root / "original", pipeline.transformer, "t2v", ".pth")
    write_rest(root / "original", pipeline.vae, pipeline.text_encoder)
    return root


def broken(bases: Path, fault: Fault, out: Path) -> Path:
    """A copy with the fault."""
    shutil.copytree(bases / fault.base, out)
    fault.damage(out)
    return out


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda root: (root / name).write_bytes(data)


def change(name: str, **fields: Any) -> Callable[[Path], object]:
    """Other values in a JSON file."""

    def damage(root: Path) -> None:
        path = root / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def pipe(name: str) -> Callable[[Path], object]:
    """Put a pipe, which nobody writes to, in a file's place."""

    def damage(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return damage


def point_to(name: str) -> Callable[[Path], object]:
    """Have the weights' index name a file elsewhere."""
    content = json.dumps({"weight_map": {"proj_out.bias": name}})
    return write("transformer/diffusion_pytorch_model.safetensors.index.json", content)


def index(**fields: Any) -> Callable[[Path], object]:
    return change("model_index.json", **fields)


def resize(name: str, by: int) -> Callable[[Path], object]:
    """Cut bytes off the end, or put some there."""

    def damage(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:by] if by < 0 else data + bytes(by))

    return damage


def tensors(name: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Other tensors in a safetensors file."""

    def damage(root: Path) -> None:
        state = load_file(root / name)
        edit(state)
        (root / name).unlink()
        save_file(state, root / name)

    return damage


def add(*keys: str) -> Callable[[Path], object]:
    return tensors(WEIGHTS, lambda state: state.update({key: torch.zeros(2, 2) for key in keys}))


def retype(name: str, key: str, dtype: torch.dtype) -> Callable[[Path], object]:
    return tensors(name, lambda state: state.update({key: state[key].to(dtype)}))


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


def shards(*, listed: int, there: int, index_file: bool = True) -> Callable[[Path], object]:
    """Weights in several files of which some are missing."""

    def damage(root: Path) -> None:
        state, folder = load_file(root / WEIGHTS), (root / WEIGHTS).parent
        (root / WEIGHTS).unlink()
        names = [f"diffusion_pytorch_model-{i + 1:05}-of-{listed:05}.safetensors" for i in range(listed)]
        parts: list[dict[str, torch.Tensor]] = [{} for _ in names]
        weight_map = {}
        for number, (key, value) in enumerate(state.items()):
            parts[number % listed][key] = value
            weight_map[key] = names[number % listed]
        for name, part in list(zip(names, parts, strict=True))[:there]:
            save_file(part, folder / name)
        if index_file:
            content = json.dumps({"metadata": {}, "weight_map": weight_map})
            (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(content)

    return damage


def both(*damages: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: [damage(root) for damage in damages]


def dangling(name: str) -> Callable[[Path], object]:
    """As in a cache whose blob never came."""

    def damage(root: Path) -> None:
        (root / name).unlink()
        (root / name).symlink_to("../../blobs/3f2a")

    return damage


PIPELINES = (
    *("WanDMDPipeline", "WanAnimatePipeline", "LucyEditPipeline", "SkyReelsV2Pipeline", "HunyuanVideoPipeline"),
    "LTXPipeline",
)
FAULTS: dict[str, Fault] = {
    "no second network": Fault("pair", remove("transformer_2"), "transformer_2: the directory is missing, model_index"),
    "no config of it": Fault("pair", remove("transformer_2/config.json"), "transformer_2/config.json: the file is"),
    "no weights of it": Fault(
        "pair",
        remove("transformer_2/diffusion_pytorch_model.safetensors"),
        "transformer_2/diffusion_pytorch_model.safetensors: the file is missing",
    ),
    "second network not named": Fault(
        "pair", index(transformer_2=[None, None]), "transformer_2: is there, but model_index.json does not name it"
    ),
    "boundary": Fault("pair", index(boundary_ratio=1.5), "model_index.json: boundary_ratio is 1.5"),
    "no autoencoder": Fault("t2v", remove("vae"), "vae: the directory is missing"),
    "autoencoder not named": Fault("t2v", index(vae=[None, None]), "model_index.json: names no vae"),
    "no image encoder": Fault("i2v", remove("image_encoder"), "image_encoder: the directory is missing, model_index"),
    "no image processor": Fault("i2v", remove("image_processor"), "image_processor: the directory is missing"),
    "image encoder not named": Fault("i2v", index(image_encoder=[None, None]), "image_encoder: is missing"),
    "no preprocessing": Fault(
        "i2v", remove("image_processor/preprocessor_config.json"), "preprocessor_config.json: the file is missing"
    ),
    "no index": Fault("t2v", remove("model_index.json"), "model_index.json: the file is missing"),
    "odd entry": Fault("t2v", index(vae=["diffusers"]), "model_index.json: vae is ['diffusers']"),
    **{name: Fault("t2v", index(_class_name=name), f"model_index.json: _class_name is '{name}'") for name in PIPELINES},
    "why a pipeline is not run": Fault("t2v", index(_class_name="WanDMDPipeline"), "few-step distill"),
    "another task": Fault(
        "t2v",
        index(_class_name="WanImageToVideoPipeline"),
        "_class_name is WanImageToVideoPipeline, but the transformer",
    ),
    "another task of pictures": Fault("i2v", index(_class_name="WanPipeline"), "is one of WanImageToVideoPipeline"),
    "another network": Fault(
        "t2v",
        change("transformer/config.json", _class_name="WanAnimateTransformer3DModel"),
        "transformer/config.json: _class_name is 'WanAnimateTransformer3DModel'",
    ),
    "T5 by the index": Fault(
        "t2v", index(text_encoder=["transformers", "T5EncoderModel"]), "text_encoder is a T5EncoderModel, expected one"
    ),
    "T5 by its configuration": Fault(
        "t2v", change("text_encoder/config.json", model_type="t5"), "text_encoder/config.json: model_type is 't5'"
    ),
    "another autoencoder": Fault(
        "t2v", index(vae=["diffusers", "AutoencoderKLHunyuanVideo"]), "vae is a AutoencoderKLHunyuanVideo"
    ),
    "another class in its configuration": Fault(
        "t2v",
        index(scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "scheduler is a FlowMatchEulerDiscreteScheduler, its own configuration says UniPCMultistepScheduler",
    ),
    "another image encoder": Fault(
        "i2v", index(image_encoder=["transformers", "SiglipVisionModel"]), "image_encoder is a SiglipVisionModel"
    ),
    "width of the text": Fault(
        "t2v", change("text_encoder/config.json", d_model=64), "d_model is 64, the transformer's text_dim is 32"
    ),
    "width of pictures": Fault(
        "i2v",
        change("image_encoder/config.json", hidden_size=16),
        "hidden_size is 16, the transformer's image_dim is 24",
    ),
    "layers of CLIP": Fault(
        "i2v", change("image_encoder/config.json", num_hidden_layers=5), "num_hidden_layers is 5 and the weights hold 3"
    ),
    "width of the autoencoder": Fault("t2v", change("vae/config.json", base_dim=8), "base_dim is 8"),
    "layers of the text encoder": Fault(
        "t2v", change("text_encoder/config.json", num_layers=3), "says 3 encoder.block and the weights hold 2"
    ),
    "noise is predicted": Fault(
        "t2v", change(SCHEDULER, prediction_type="epsilon"), f'{SCHEDULER}: prediction_type is "e'
    ),
    "no flow": Fault("t2v", change(SCHEDULER, use_flow_sigmas=False), f"{SCHEDULER}: use_flow_sigmas is false"),
    "a shift by size": Fault("t2v", change(SCHEDULER, use_dynamic_shifting=True), "use_dynamic_shifting is true"),
    "LCM": Fault(
        "t2v",
        both(change(SCHEDULER, _class_name="LCMScheduler"), index(scheduler=["diffusers", "LCMScheduler"])),
        f"{SCHEDULER}: _class_name is 'LCMScheduler'",
    ),
    "quantised by its configuration": Fault(
        "t2v",
        change("transformer/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "transformer/config.json: quantization_config is there (bitsandbytes)",
    ),
    "quantised text encoder": Fault(
        "t2v",
        change("text_encoder/config.json", quantization_config={"quant_method": "gptq"}),
        "text_encoder/config.json: quantization_config is there (gptq)",
    ),
    "int8": Fault("t2v", retype(WEIGHTS, "proj_out.weight", torch.int8), "proj_out.weight is stored as I8"),
    "fp8": Fault(
        "t2v", retype(WEIGHTS, "proj_out.weight", torch.float8_e4m3fn), "proj_out.weight is stored as F8_E4M3"
    ),
    "int8 text encoder": Fault("t2v", retype(TEXT, "shared.weight", torch.int8), "shared.weight is stored as I8"),
    "scales": Fault("t2v", add("blocks.0.attn1.to_q.weight_scale"), "weight_scale that the configuration has no place"),
    **{
        f"pointer {name}": Fault("t2v", write(name, POINTER), f"{name}: is a Git LFS pointer")
        for name in (WEIGHTS, TEXT, VAE, "tokenizer/tokenizer.json", "transformer/config.json", SCHEDULER)
    },
    "pointer at the index": Fault("t2v", write("model_index.json", POINTER), "model_index.json: is a Git LFS pointer"),
    "fp16 alone": Fault(
        "t2v", rename(WEIGHTS, "transformer/diffusion_pytorch_model.fp16.safetensors"), "only the variant fp16 is there"
    ),
    "bf16 text encoder alone": Fault("t2v", rename(TEXT, "text_encoder/model.bf16.safetensors"), "variant bf16"),
    "fp16 in parts": Fault(
        "t2v",
        rename(WEIGHTS, "transformer/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"),
        "only the variant fp16 is there",
    ),
    "missing parts": Fault(
        "t2v", shards(listed=3, there=1), "00002-of-00003.safetensors: the file is missing; 2 of the 3 that diffusion"
    ),
    "parts without their index": Fault(
        "t2v", shards(listed=2, there=2, index_file=False), "whose index diffusion_pytorch_model.safetensors.index.json"
    ),
    "no tokenizer file": Fault("t2v", remove("tokenizer/tokenizer.json"), "tokenizer: holds no tokenizer file"),
    "cut off": Fault("t2v", resize(WEIGHTS, -100), f"{WEIGHTS}: cannot be read as safetensors: it is cut off"),
    "cut off autoencoder": Fault("t2v", resize(VAE, -1), f"{VAE}: cannot be read as safetensors: it is cut off"),
    "too long": Fault("t2v", resize(TEXT, 7), f"{TEXT}: cannot be read as safetensors: it is too long"),
    "a web page": Fault("t2v", write(WEIGHTS, "<!doctype html><html>Not found</html>"), "does not begin with a header"),
    "a link to nowhere": Fault("t2v", dangling(WEIGHTS), "is a link to ../../blobs/3f2a, which is not there"),
    "LoRA": Fault("t2v", add("blocks.0.attn1.to_q.lora_A.weight"), "lora_A.weight that the configuration has no place"),
    "fused adapter": Fault(
        "t2v",
        tensors(WEIGHTS, lambda s: s.update({"proj_out.base_layer.weight": s.pop("proj_out.weight")})),
        "proj_out.base_layer.weight that the configuration has no place for: it is of a LoRA",
    ),
    "another block": Fault("t2v", add("blocks.2.ffn.net.2.bias"), "says 2 blocks and the weights hold 3"),
    "CLIP tokens": Fault(
        "t2v", add("condition_embedder.image_embedder.norm1.weight"), "it is of pictures' CLIP tokens"
    ),
    "CLIP tokens in blocks": Fault("t2v", add("blocks.0.attn2.add_k_proj.weight"), "it is of pictures' CLIP tokens"),
    "VACE": Fault("t2v", add("vace_blocks.0.proj_out.weight"), "it is of VACE"),
    "Animate": Fault("t2v", add("motion_encoder.dec.direction.weight"), "it is of another network"),
    "a tensor within": Fault(
        "t2v", add("blocks.0.attn1.to_q.extra"), "blocks.0.attn1.to_q.extra that the configuration"
    ),
    "no bias": Fault("t2v", tensors(WEIGHTS, lambda s: s.pop("proj_out.bias")), "the weights lack proj_out.bias"),
    "another shape": Fault(
        "t2v",
        tensors(WEIGHTS, lambda s: s.update({"proj_out.bias": torch.zeros(3)})),
        "proj_out.bias has shape (3,), expected (64,)",
    ),
    "original: another model": Fault("original", change("config.json", model_type="s2v"), "model_type is 's2v'"),
    "original: another class": Fault(
        "original", change("config.json", _class_name="WanAnimateModel"), "_class_name is 'WanAnimateModel'"
    ),
    "original: pointer": Fault("original", write("Wan2.1_VAE.pth", POINTER), "Wan2.1_VAE.pth: is a Git LFS pointer"),
    "original: cut off": Fault(
        "original", resize("models_t5_umt5-xxl-enc-bf16.pth", -50), "cannot be read as PyTorch weights: it is cut off"
    ),
    "original: no text encoder": Fault(
        "original", remove("models_t5_umt5-xxl-enc-bf16.pth"), "models_t5_umt5-xxl-enc-bf16.pth: the file is missing"
    ),
    "original: layers": Fault("original", change("config.json", num_layers=3), "says 3 blocks and the weights hold 2"),
    "a pipe": Fault("t2v", pipe("transformer/config.json"), "transformer/config.json: is no file"),
    "a pipe as tokenizer": Fault("t2v", pipe("tokenizer/tokenizer.json"), "tokenizer.json: is no file"),
    "a pipe as index": Fault("t2v", pipe("model_index.json"), "model_index.json: is no file"),
    "deep index": Fault("t2v", write("model_index.json", DEEP), "index.json: cannot be read as JSON: it is nested"),
    "deep scheduler": Fault("t2v", write(SCHEDULER, DEEP), "config.json: cannot be read as JSON: it is nested"),
    "no end of JSON": Fault(
        "t2v", write(SCHEDULER, " " * ((64 << 20) + 1)), "scheduler_config.json: has 67108865 bytes, at most 67108864"
    ),
    "a list as class": Fault("t2v", index(_class_name=["WanPipeline"]), "_class_name is ['WanPipeline'], expected one"),
    "no number as eps": Fault("t2v", change("transformer/config.json", eps=math.nan), "config.json: eps"),
    "endless rope_theta": Fault(
        "t2v", change("transformer/config.json", rope_theta=math.inf), "config.json: rope_theta"
    ),
    "a billion layers": Fault("t2v", change("transformer/config.json", num_layers=10**9), "config.json: num_layers"),
    "a billion layers of text": Fault(
        "t2v", change("text_encoder/config.json", num_layers=10**9), "num_layers is 1000000000, must be from 1 to 1000"
    ),
    "channels in words": Fault("t2v", change("vae/config.json", z_dim="x"), "vae/config.json: z_dim is 'x'"),
    "no stride": Fault("t2v", change("vae/config.json", scale_factor_spatial=0), "scale_factor_spatial is 0"),
    "odd stride": Fault("t2v", change("vae/config.json", scale_factor_spatial=7), "scale_factor_spatial is 7"),
    "time backwards": Fault("t2v", change("vae/config.json", scale_factor_temporal=-4), "scale_factor_temporal is -4"),
    "means in words": Fault("t2v", change("vae/config.json", latents_mean="x"), "latents_mean is 'x', expected 16"),
    "no deviation": Fault("t2v", change("vae/config.json", latents_std=[0.0] * 16), "expected 16 numbers above 0"),
    "tiny shift": Fault("t2v", change(SCHEDULER, flow_shift=1e-320), "expected a number from 0.01 to 100"),
    "endless shift": Fault("t2v", change(SCHEDULER, flow_shift=10**400), "expected a number from 0.01 to 100"),
    "weights elsewhere": Fault("t2v", point_to("../../x.safetensors"), "which is not in its folder"),
    "weights of the system": Fault("t2v", point_to("/etc/passwd"), "which is not in its folder"),
    "original: a billion layers": Fault(
        "original", change("config.json", num_layers=10**9), "num_layers is 1000000000, at most 1000 are run"
    ),
    "original: no tokenizer": Fault("original", remove("google/umt5-xxl"), "umt5-xxl: the directory is missing"),
}
