"""Score a folder of videos with VBench's own package, in its own environment. Imports nothing of ours.

    python vbench_dimensions.py FOLDER OUT DEVICE DIMENSION...

Prints one line of JSON: ``{"version": ..., "scores": {dimension: score}}``, or ``{"missing": reason}`` where the
package or weights of a dimension are not there. VBench would download these; here nothing is.
"""

import json
import os
import sys
from importlib import metadata

# What each dimension reads below VBENCH_CACHE_DIR, by vbench 0.1.5 (`vbench.utils.init_submodules`, local mode).
WEIGHTS = {
    "subject_consistency": ("dino_model/facebookresearch_dino_main", "dino_model/dino_vitbase16_pretrain.pth"),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "temporal_flickering": (),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "aesthetic_quality": ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
}


def missing(dimensions):
    """Return what VBench lacks, or None."""
    try:
        metadata.version("vbench")
    except metadata.PackageNotFoundError:
        return "the package vbench is not installed there"
    cache = os.environ.get("VBENCH_CACHE_DIR") or os.path.join(os.path.expanduser("~"), ".cache", "vbench")
    wanted = [(name, path) for name in dimensions for path in WEIGHTS[name]]
    lacking = [f"{path} ({name})" for name, path in wanted if not os.path.exists(os.path.join(cache, path))]
    return f"VBENCH_CACHE_DIR lacks {', '.join(lacking)}" if lacking else None


def main(folder, out, device, *dimensions):
    said = os.dup(1)
    os.dup2(2, 1)  # VBench prints its progress
    reason = missing(dimensions)
    if reason:
        answer = {"missing": reason}
    else:
        from vbench import VBench

        bench = VBench(device, "", out)
        bench.evaluate(
            videos_path=folder, name="clips", dimension_list=list(dimensions), local=True, mode="custom_input"
        )
        with open(os.path.join(out, "clips_eval_results.json")) as file:
            found = json.load(file)
        answer = {"version": metadata.version("vbench"), "scores": {name: found[name][0] for name in dimensions}}
    os.write(said, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
