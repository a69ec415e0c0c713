"""Turn the pictures, clips and texts of a task into the conditions of a segment: one module per way of doing it."""

from __future__ import annotations

from typing import Protocol

import torch

from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.media.inputs import Inputs
from zoetrope.model.request.specs import VideoSpec


class Conditioner(Protocol):
    """How a family conditions on a task. ``spec`` describes one segment as if it were a clip of its own."""

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of task that the family serves."""

    def prompt(self, spec: VideoSpec) -> str:
        """Return the prompt as this family's text encoder gets it."""

    def condition(
        self, spec: VideoSpec, inputs: Inputs, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> Conditions:
        """Encode the media.

        Args:
            positive, negative: ``[L, text_dim]``, the encoded prompts; negative is None if guidance does not
                need it.

        Raises:
            InvalidRequest: the family cannot serve the task, or a picture or clip that it needs is missing.
        """
