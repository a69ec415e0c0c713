"""A dense checkpoint of nano's size, and the pipeline of diffusers over it.

    python -m zoetrope.benchmarks.packed_throughput.dense FOLDER JOBS THREADS

Loads the checkpoint with diffusers, prints a line, waits for one on stdin, makes the jobs (JSON, as `work.dense_jobs`)
one after another with so many threads, and prints the seconds as JSON. The latents of the first job are written beside
the checkpoint first.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file

from zoetrope.benchmarks.random_checkpoint import small_autoencoder, small_text_encoder, unipc
from zoetrope.model.families.nano import NANO_CONFIG
from zoetrope.model.families.wan import WAN21_VAE
from zoetrope.model.nano.prompts import build_tokenizer

SHIFT = 3.0
LATENTS = "diffusers.safetensors"


def write_dense(folder: Path, seed: int = 0) -> None:
    """Write a Wan2.1 text-to-video checkpoint with random weights, as wide and deep as nano. Changes torch's seed."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=NANO_CONFIG.num_attention_heads,
        attention_head_dim=NANO_CONFIG.attention_head_dim,
        in_channels=16,
        out_channels=16,
        text_dim=NANO_CONFIG.text_dim,
        freq_dim=NANO_CONFIG.freq_dim,
        ffn_dim=NANO_CONFIG.ffn_dim,
        num_layers=NANO_CONFIG.num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=small_text_encoder(NANO_CONFIG.text_dim),
        vae=small_autoencoder(WAN21_VAE),
        scheduler=unipc(SHIFT),
        transformer=transformer.eval(),
    ).save_pretrained(folder)


def run(pipeline: Any, job: dict[str, Any], output: str) -> Any:
    """Make one job; returns its frames, or its latents ``[C, T, H, W]`` if ``output`` is "latent"."""
    width, height = map(int, job["size"].split("x"))
    made = pipeline(
        prompt=job["prompt"],
        negative_prompt=job["negative_prompt"],
        height=height,
        width=width,
        num_frames=job["frames"],
        num_inference_steps=job["steps"],
        guidance_scale=job["guidance"],
        generator=torch.Generator("cpu").manual_seed(job["seed"]),
        output_type=output,
        max_sequence_length=512,
    )
    return made.frames[0]


def main(arguments: list[str]) -> int:
    folder, jobs = Path(arguments[0]), json.loads(Path(arguments[1]).read_text())
    torch.set_num_threads(int(arguments[2]))
    pipeline = WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        save_file({"latents": run(pipeline, jobs[0], "latent").contiguous()}, folder.parent / LATENTS)
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    with torch.inference_mode():
        for job in jobs:
            run(pipeline, job, "np")
    print(json.dumps({"seconds": time.monotonic() - started}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
