"""Make a clip with vLLM-Omni.

    python vllm_omni_offline.py WORK OUT.mp4

WORK: JSON, as `peer.PeerWork`. Written from the text-to-video example of vllm-omni 0.30.0; it was not run here.
"""

import json
import sys

import torch
from diffusers.utils import export_to_video
from vllm_omni.entrypoints.omni import Omni
from vllm_omni.inputs.data import OmniDiffusionSamplingParams

FPS = 16


def main(work, out):
    omni = Omni(model=work["model"], flow_shift=work["shift"])
    prompt = {"prompt": work["prompt"], "negative_prompt": work["negative"], "modalities": ["video"]}
    sampling = OmniDiffusionSamplingParams(
        height=work["height"],
        width=work["width"],
        num_frames=work["frames"],
        num_inference_steps=work["steps"],
        guidance_scale=work["guidance"],
        generator=torch.Generator("cpu").manual_seed(work["seed"]),
        output_type="np",
    )
    found = omni.generate(prompt, sampling)
    frames = found[0] if isinstance(found, list) else found
    frames = getattr(frames, "images", frames)
    while isinstance(frames, (list, tuple)) and len(frames) == 1:
        frames = frames[0]
    if isinstance(frames, torch.Tensor):
        frames = frames.float().cpu().numpy()
    while getattr(frames, "ndim", 4) > 4:
        frames = frames[0]
    export_to_video(list(frames), out, fps=FPS)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
