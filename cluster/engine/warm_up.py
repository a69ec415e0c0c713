"""What a rank does and says before its first job: the first steps, and what it can take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from zoetrope.cluster.parallel.mesh import Mesh
from zoetrope.cluster.planning.calibration import known_rates
from zoetrope.cluster.planning.hardware import Hardware, with_memory
from zoetrope.cluster.planning.step_time import step_seconds
from zoetrope.cluster.protocol.messages import StepShare
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.network.costs import rank_memory
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.streaming.device_plan import DevicePlan
from zoetrope.model.streaming.store import BlockStore

LONGEST_SECONDS = 0.2  # predicted, of a step of the warm-up
LONG_SECONDS = 0.1  # predicted, of a step on a CPU, which initialises in milliseconds: it is not taken again
SIDES = (16, 8, 4, 2)  # of its larger clip, in tokens
PROBE = 1 << 16  # tokens whose memory is estimated


def share_of(denoiser: Denoiser, segment: Segment) -> StepShare:
    """Return what a segment adds to the next step; branches of different lengths count as their mean."""
    tokens = segment.sequence_tokens(denoiser.transformer.config.patch_size)
    return StepShare(segment.spec.id, round(sum(tokens) / len(tokens)), len(tokens), len(segment.spec.loras))


def warm_up(
    denoiser: Denoiser, card: ModelCard, gear: Hardware, mesh: Mesh, shapes: Sequence[tuple[int, int, int]] = ()
) -> tuple[tuple[StepShare, float], ...]:
    """Take a step of the smallest clip, so that the first job is not delayed by lazy initialisation, then another, and
    two of a larger one; the seconds of the second of each are the first that is known of this gang's speed. Then take
    one of each shape, so that no job is the first of it. On a CPU a step that is predicted to be long is not repeated.

    Args:
        shapes: width, height and frames of clips. One that the model cannot denoise stands for the next larger that it
            can.

    Returns:
        The later step of each clip, or the only one; none of a rank whose noise expert takes no first step.
    """
    config, rates = denoiser.transformer.config, known_rates(gear)
    predicted = {side: step_seconds(config, [side * side], rates, sequence_ranks=mesh.ranks) for side in (1, *SIDES)}
    larger = next((side for side in SIDES if predicted[side] <= LONGEST_SECONDS), None)
    found = []
    for side in (1,) if larger is None else (1, larger):
        segment = _blank(denoiser, card, 1, side, side)
        if not denoiser.takes(segment):
            return ()
        share = share_of(denoiser, segment)
        seconds = _step(denoiser, segment)
        if denoiser.device.type != "cpu" or predicted[side] < LONG_SECONDS:  # else it is little that it initialised
            seconds = _step(denoiser, _blank(denoiser, card, 1, side, side))
        found.append((share, seconds))
    for width, height, frames in shapes:
        high, wide = (math.ceil(pixels / card.size_multiple) for pixels in (height, width))
        _step(denoiser, _blank(denoiser, card, 1 + math.ceil((frames - 1) / card.temporal), high, wide))
    return tuple(found)


def _step(denoiser: Denoiser, segment: Segment) -> float:
    """Take a step; returns its seconds."""
    started = time.monotonic()
    denoiser.step([segment])
    if denoiser.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - started


def streaming_of(denoiser: Denoiser, gear: Hardware, limit: int) -> tuple[float, ...]:
    """Return `cluster.protocol.messages.Report.streaming`; ``limit``: tokens of a forward pass, 0 for none."""
    store = getattr(denoiser.transformer, "arrivals", None)
    if not isinstance(store, BlockStore) or not store.streamed:
        return ()
    networks = 2 if denoiser.low_noise is not None else 1
    layers = networks * denoiser.transformer.config.num_layers
    return (min(1.0, store.streamed / layers), store.host_bytes / networks / gear.host, float(limit))


def most_tokens(denoiser: Denoiser, card: ModelCard, gear: Hardware, plan: DevicePlan, mesh: Mesh) -> int:
    """Return how many tokens of a step fit into the ranks' memory, all groups together, by the planner's estimate
    (`model.network.costs.rank_memory`); 0 where passes are split or weights streamed, which leaves room by itself."""
    if plan.room is not None or plan.most_tokens is not None:
        return 0
    if denoiser.device.type == "cuda":
        gear = with_memory(gear, torch.cuda.mem_get_info(denoiser.device)[1])
    held = rank_memory(
        denoiser.transformer.config,
        PROBE,
        mesh.ranks,
        2 if denoiser.low_noise is not None else 1,
        value_bytes=gear.value_bytes,
        quantize=card.quantize,
    )
    available = gear.memory // (mesh.ranks * mesh.groups) if gear.shared_memory else gear.memory
    return max(1, math.floor((available - gear.reserve - held.weights) / held.activations * PROBE)) * mesh.groups


def _blank(denoiser: Denoiser, card: ModelCard, length: int, high: int, wide: int) -> Segment:
    """Return a segment of ``length`` latent frames, ``high`` by ``wide`` tokens, without guidance."""
    network, cells = denoiser.transformer, card.size_multiple // card.spatial
    spec = SegmentSpec("warm-up", (card.latent_channels, length, high * cells, wide * cells), 1, 1.0, 0)
    text = torch.zeros(card.max_text_tokens, network.config.text_dim, dtype=network.dtype, device=network.device)
    return denoiser.start(spec, blank_conditions(network.config, spec.latent_shape, text))
