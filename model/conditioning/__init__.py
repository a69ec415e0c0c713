"""How the pictures, clips and texts of a task become the conditions of a segment: one module for each family."""

from __future__ import annotations

from typing import Protocol

import torch

from model.conditions import Conditions
from model.inputs import Inputs
from model.tasks import VideoSpec


class Conditioner(Protocol):
    """What a family does with a task. ``spec`` describes one segment as if it were a clip of its own."""

    def kinds(self) -> tuple[str, ...]:
        """The task kinds that the family serves."""

    def prompt(self, spec: VideoSpec) -> str:
        """The prompt as the text encoder of this family is given it."""

    def condition(
        self, spec: VideoSpec, inputs: Inputs, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> Conditions:
        """Encode the media.

        Args:
            positive, negative: ``[L, text_dim]``, the encoded prompts; negative is None where guidance has no use for
                it.

        Raises:
            InvalidRequest: the family cannot serve the task, or a picture or clip that it needs is missing.
        """
