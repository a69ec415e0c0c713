"""Plans this machine's device for a model before it is loaded: what rank, conditioner and decoder agree on."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from zoetrope.cluster.planning.gang_plan import preset_of
from zoetrope.cluster.planning.hardware import GIB, Hardware, hardware_of, with_memory
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.residence import ClipWork, Residence, residence, ways
from zoetrope.model.families.family import Preset
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.sizes import SIZES, Size
from zoetrope.model.request.tasks import ModelCard, Role
from zoetrope.model.streaming.device_plan import ALL_STAYS, DevicePlan
from zoetrope.model.streaming.loading import WeightRoom

log = logging.getLogger("zoetrope.engine")
TARGETS = ("720p", "480p")  # the clips to leave room for, the largest first, of models that take any size


def device_plan(
    card: ModelCard, device: torch.device, *, ranks: int = 1, groups: int = 1, role: Role = "both"
) -> DevicePlan:
    """Plan a device by the model's ``offload``.

    ``auto`` streams only what does not fit beside a clip of `TARGETS` of the model's own length. ``always`` streams all
    layers of the transformer, also on a CPU.

    Args:
        ranks: that share the tokens of a group, on this machine. groups: of guidance.

    Raises:
        ModelError: the device is too small whatever is streamed, or ``offload`` is never; with the numbers.
    """
    offload = card.load.offload
    sharers = ranks * groups
    if device.type != "cuda":
        return DevicePlan(WeightRoom(0, sharers=sharers)) if offload == "always" else ALL_STAYS
    memory = torch.cuda.mem_get_info(device)[1]
    gear = with_memory(hardware_of(torch.cuda.get_device_name(device)), memory)
    preset = preset_of(card)
    if role != "both":
        preset = replace(preset, transformers=1)
    found = plan_for(preset, gear, card, ranks, groups)
    if found is None:
        raise ModelError(too_small(preset, gear, card, ranks, groups))
    log.info("%s on %s: %s", card.name, gear.name, found.words())
    spare = found.memory.available - found.memory.total
    left = found.memory.weights + spare if offload == "auto" else 0
    room = WeightRoom(left, sharers=sharers) if found.streams else None
    roomy = found.encoders_stay and room is None
    return DevicePlan(room, found.encoders_stay, None if roomy else found.tokens * found.branches * groups)


def plan_for(preset: Preset, gear: Hardware, card: ModelCard, ranks: int = 1, groups: int = 1) -> Residence | None:
    """Return how the largest of the clips to leave room for is run; None if none fits."""
    return next(
        (
            w
            for size in targets(preset)
            if (w := residence(_work(preset, gear, card, ranks, groups, size), card.load.offload))
        ),
        None,
    )


def targets(preset: Preset) -> list[Size]:
    """Return the sizes to leave room for, the largest first."""
    if preset.native_sizes:
        return sorted(preset.native_sizes, key=lambda size: -size[0] * size[1])
    return [SIZES[name]["16:9"] for name in TARGETS]


def too_small(preset: Preset, gear: Hardware, card: ModelCard, ranks: int = 1, groups: int = 1) -> str:
    """Say what the smallest clip would take, and what would help."""
    size, offload = targets(preset)[-1], card.load.offload
    least = min(ways(_work(preset, gear, card, ranks, groups, size), offload), key=lambda way: way.memory.total)
    memory = least.memory
    advice = [] if offload != "never" else ["--offload auto streams weights from the host"]
    advice += ["--quantize fp8 halves most of them"] if card.quantize == "none" else []
    return (
        f"offload: {card.name} needs {memory.total / GIB:.1f} GiB of a GPU for a clip of {size[0]}x{size[1]} "
        f"({memory.weights / GIB:.1f} weights, {memory.activations / GIB:.1f} activations), {gear.name} has "
        f"{memory.available / GIB:.1f}; {', '.join(advice) or 'more GPUs would do'}"
    )


def _work(preset: Preset, gear: Hardware, card: ModelCard, ranks: int, groups: int, size: Size) -> ClipWork:
    return ClipWork.of(
        preset,
        gear,
        roofline(gear),
        size,
        quantize=card.quantize,
        ranks=ranks,
        groups=groups,
        text_tokens=card.max_text_tokens,
    )
