"""nano: our own tiny model with experts; all tasks. Its weights come with the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.families.family import AutoencoderKind, Preset, Sampling
from zoetrope.model.families.wan21_t2v import WAN21_T2V
from zoetrope.model.request.kinds import TASK_KINDS

# Four heads, so that 1, 2 or 4 ranks can share them; the outer layers stay dense. A token is one cell of 4 x 4 pixels:
# small tokens learn a picture much sooner than fewer large ones. Positions rotate faster than in Wan (theta 100),
# because a clip is at most 10 tokens wide.
NANO_CONFIG = TransformerConfig(
    patch_size=(1, 1, 1),
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=32,
    out_channels=32,
    text_dim=128,
    ffn_dim=384,
    num_layers=5,
    rope_theta=100.0,
    moe=MoEConfig(layers=(1, 2, 3), num_experts=16, top_k=2, expert_dim=128, shared_dim=128),
)
# The sizes it was trained at: it draws badly at others. The decoder scales clips up for larger requests.
NANO_SIZES = ((40, 24), (24, 40), (32, 32), (32, 24), (24, 32))
NANO_CARD: dict[str, Any] = {
    "native_sizes": NANO_SIZES,
    "tasks": TASK_KINDS,
    "fps": 8,
    "default_frames": 16,
    "max_frames": 120,
    "segment_frames": 17,
    "overlap_frames": 5,
    "max_references": 2,
    "default_steps": 30,
    "default_guidance": 3.0,
    "max_text_tokens": 32,
    "family": "nano",
    "default_negative_prompt": "",
    "flow_shift_note": "scheduler_config.json",
}

NANO_DIRECTORY = Path(__file__).parents[1] / "nano" / "weights"
NANO_4STEP_DIRECTORY = NANO_DIRECTORY.with_name("weights_4step")  # by `model.nano.distill`

NANO = replace(
    WAN21_T2V,
    name="nano",
    presets=(
        Preset(
            "nano",
            "comes along",
            NANO_CONFIG,
            AutoencoderKind("linear", 32, 4),
            Sampling(fps=8, frames=16, steps=30, shift=3.0, guidance=3.0),
            native_sizes=NANO_SIZES,
            directory=NANO_DIRECTORY,
            card=NANO_CARD,
        ),
        Preset(
            "nano-4step",
            "comes along",
            NANO_CONFIG,
            AutoencoderKind("linear", 32, 4),
            Sampling(fps=8, frames=16, steps=4, shift=3.0, guidance=1.0),
            native_sizes=NANO_SIZES,
            directory=NANO_4STEP_DIRECTORY,
            profile="nano-4",
            card=NANO_CARD | {"family": "nano-4step"},
        ),
    ),
    matches=lambda contents: False,  # recognised by name alone
    tasks=lambda config: TASK_KINDS,
)
