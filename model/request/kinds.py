"""What is known of requests without their schema: kinds of task, and guidance. Needs neither torch nor pydantic."""

from __future__ import annotations

TASK_KINDS = (
    "text_to_video",
    "image_to_video",
    "first_last_frame",
    "grid_to_video",
    "reference_to_video",
    "edit_video",
)


def needs_negative(guidance: float) -> bool:
    """Tell whether guidance needs a second branch: classifier-free guidance (2207.12598) does above 1, as in
    diffusers."""
    return guidance > 1.0
