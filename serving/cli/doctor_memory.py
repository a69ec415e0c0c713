"""`zoetrope doctor`: whether the model fits on the GPU of this machine, and which options make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.tasks import ModelCard

if TYPE_CHECKING:
    from zoetrope.cluster.planning.hardware import Hardware
    from zoetrope.cluster.planning.residence import Residence

GIB = 1 << 30


def memory_advice(card: ModelCard, ranks: int = 1, groups: int = 1) -> Iterator[tuple[bool, str, str]]:
    """Yield whether a model runs on this machine's GPU, how, and what would be better; nothing on a CPU.

    Args:
        ranks: that share a step's tokens. groups: of guidance.
    """
    import torch

    if not torch.cuda.is_available():
        return
    from zoetrope.cluster.planning.device_plan import plan_for, targets, too_small
    from zoetrope.cluster.planning.gang_plan import preset_of
    from zoetrope.cluster.planning.hardware import hardware_of, with_memory
    from zoetrope.kernels.select.abilities import FP8_CAPABILITY

    gear = with_memory(hardware_of(torch.cuda.get_device_name()), torch.cuda.mem_get_info()[1])
    preset = preset_of(card)
    found = plan_for(preset, gear, card, ranks, groups)
    eight = torch.cuda.get_device_capability() >= FP8_CAPABILITY
    advice = _better(card, gear, found, ranks, groups, eight)
    if found is None:
        yield False, too_small(preset, gear, card, ranks, groups), advice
        return
    width, height = targets(preset)[0]
    text = f"{found.words()}; {found.memory.total / GIB:.1f} of {gear.memory / GIB:.1f} GiB for {width}x{height}"
    if found.streams:
        text += f", {found.memory.host / GIB:.1f} GiB of the host; free from {found.break_even:,.0f} tokens a pass on"
    yield True, text, advice


def _better(card: ModelCard, gear: Hardware, found: Residence | None, ranks: int, groups: int, eight: bool) -> str:
    """Return which option would keep more of the model on the GPU; "" if none. ``eight``: it computes in 8 bits."""
    from zoetrope.cluster.planning.device_plan import plan_for
    from zoetrope.cluster.planning.gang_plan import preset_of
    from zoetrope.model.families.quantization import why_exact

    preset, load = preset_of(card), card.load
    options: list[tuple[str, LoadOptions]] = []
    if load.offload == "never":
        options.append(("--offload auto", replace(load, offload="auto")))
    if eight and load.quantize == "none" and why_exact(preset.config) is None:
        options.append(("--quantize fp8", replace(load, quantize="fp8")))
        options.append(("--quantize fp8 --offload auto", replace(load, quantize="fp8", offload="auto")))
    for words, changed in options:
        other = plan_for(preset, gear, replace(card, load=changed), ranks, groups)
        if other is None:
            continue
        if found is None or (found.streams and len(other.split.streamed) < len(found.split.streamed)):
            return f"with {words}: {other.words()}"
    return ""
