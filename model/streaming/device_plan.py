"""How the parts of a model share a device, as decided before they are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from zoetrope.model.streaming.loading import WeightRoom


@dataclass(frozen=True)
class DevicePlan:
    """What stays on a device, and what comes when it is needed.

    Attributes:
        room: for the weights of the transformers; layers that do not fit are streamed. None: all stay.
        encoders_stay: the text encoder and the autoencoder are on the device also when they are not in use.
        most_tokens: of one forward pass, unless a single sequence has more; None: whatever a step has.
    """

    room: WeightRoom | None = None
    encoders_stay: bool = True
    most_tokens: int | None = None


ALL_STAYS = DevicePlan()
