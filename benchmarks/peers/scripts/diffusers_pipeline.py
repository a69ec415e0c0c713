"""Make a clip with diffusers' pipeline.

    python diffusers_pipeline.py WORK OUT.npy

WORK: JSON, as `peer.PeerWork`. Writes frames ``[F, H, W, 3]`` uint8.
"""

import json
import sys

import numpy as np
import torch
from diffusers import DiffusionPipeline


def main(work, out):
    cuda = torch.cuda.is_available()
    pipeline = DiffusionPipeline.from_pretrained(
        work["model"], torch_dtype={"vae": torch.float32, "default": torch.bfloat16 if cuda else torch.float32}
    ).to("cuda" if cuda else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        frames = pipeline(
            prompt=work["prompt"],
            negative_prompt=work["negative"],
            height=work["height"],
            width=work["width"],
            num_frames=work["frames"],
            num_inference_steps=work["steps"],
            guidance_scale=work["guidance"],
            generator=torch.Generator("cpu").manual_seed(work["seed"]),
            output_type="np",
        ).frames[0]
    np.save(out, (np.asarray(frames) * 255).round().astype(np.uint8))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
