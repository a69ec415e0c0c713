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
from vllm_omni.model_extras import get_model_class_name, get_output_tensor_range

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
    )
    signed = get_output_tensor_range(get_model_class_name(omni)) == "negative_one_to_one"
    export_to_video(list(frames_of(omni.generate(prompt, sampling), signed)), out, fps=FPS)


def frames_of(found, signed):
    """Return frames ``[F, H, W, 3]`` in 0..1 from what the engine gives: nested lists, a pair with the sound, a tensor.

    ``signed``: values of tensors are in -1..1.
    """
    while not hasattr(found, "ndim"):
        if hasattr(found, "images"):
            found = found.images
        elif isinstance(found, dict):
            found = found.get("frames") if found.get("frames") is not None else found["video"]
        elif isinstance(found, tuple) or len(found) == 1:
            found = found[0]  # of a pair the first; the second is the sound
        else:
            return found  # a picture each
    if isinstance(found, torch.Tensor):
        found = found.float().cpu()
        if found.ndim == 5:
            found = found[0]
        if found.shape[0] in (3, 4):
            found = found.permute(1, 2, 3, 0)
        return ((found.clamp(-1, 1) + 1) / 2 if signed else found.clamp(0, 1)).numpy()
    return found[0] if found.ndim == 5 else found


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
