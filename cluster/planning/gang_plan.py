"""Plans a gang: how many ranks share what, whether it fits, how long a step takes, and why.

Every split of the ranks into guidance groups times sequence ranks is tried; of those that divide the network, stay
inside an NVLink domain and fit into memory, the one with the shortest predicted step wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from zoetrope.cluster.planning.calibration import rates_of
from zoetrope.cluster.planning.expert_traffic import balanced, ranks_of_token
from zoetrope.cluster.planning.hardware import GIB, Hardware, hardware
from zoetrope.cluster.planning.rates import Rates
from zoetrope.cluster.planning.step_time import StepTime, step_time
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.families.config import TEXT_TOKENS, TransformerConfig
from zoetrope.model.families.family import AutoencoderKind, Preset, Sampling
from zoetrope.model.families.quantization import described, why_exact
from zoetrope.model.network.costs import frames_of, rank_memory, tokens_of
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.sizes import SIZES
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.runtime.errors import Picklable

NoiseExperts = Literal["together", "apart"]

# Tensors of the size of a segment's latents, in float32: latents, noise, a velocity for each of two branches, four of a
# sampler's history; and the copies that a snapshot makes of them while it is written.
LATENT_COPIES = 8 + 6
MESSAGE_ROWS = 4  # q, k, v and the result again, in message order; for experts one more set of rows


class PlanError(Picklable, ValueError):
    """No plan is possible. ``field`` is the argument at fault; the message says what would work instead."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Overrides:
    """Choices that the planner must not make."""

    cfg_groups: int | None = None
    noise_experts: NoiseExperts | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes on each rank. ``buffers``: messages, states of segments, snapshots being written, text's keys, values."""

    weights: int
    activations: int
    buffers: int
    reserve: int
    available: int

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.buffers + self.reserve

    @property
    def fits(self) -> bool:
        return self.total <= self.available


@dataclass(frozen=True)
class GangPlan:
    """One gang: ``ranks = cfg_groups x sequence_ranks``.

    Attributes:
        expert_ranks: over which the experts of a layer are distributed; 1 if there are none.
        noise_experts: whether the high- and the low-noise network of a checkpoint are both on this gang or on two
            gangs. ``together`` if there is only one network.
        domains: NVLink domains that the gang uses; with two, each guidance group has its own.
        frames, tokens: of a segment, in one guidance branch. sequences: in a step. quantize: the form of the weights.
        time: means over the ranks. memory: of the fullest rank.
    """

    model: str
    gpu: str
    is_gpu: bool
    ranks: int
    sequence_ranks: int
    cfg_groups: int
    expert_ranks: int
    noise_experts: NoiseExperts
    domains: int
    width: int
    height: int
    frames: int
    tokens: int
    sequences: int
    memory: Memory
    time: StepTime
    origin: str
    why: tuple[str, ...]
    quantize: Quantize = "none"

    @property
    def gangs(self) -> int:
        return 2 if self.noise_experts == "apart" else 1

    @property
    def domain_ranks(self) -> int:
        """Ranks that must share an NVLink domain."""
        return self.ranks // self.domains


@dataclass(frozen=True)
class _Work:
    """The work of a step, and the hardware."""

    preset: Preset
    gear: Hardware
    rates: Rates
    domain: int
    width: int
    height: int
    frames: int
    tokens: int
    forwards: int
    batch: int
    text_tokens: int
    quantize: Quantize
    overrides: Overrides

    @property
    def config(self) -> TransformerConfig:
        return self.preset.config


def plan_gang(
    model: Preset | ModelCard,
    gpus: int,
    gpu_kind: str,
    width: int,
    height: int,
    seconds: float,
    *,
    nvlink_domain: int = 8,
    batch: int = 1,
    quantize: Quantize = "none",
    overrides: Overrides | None = None,
    rates: Rates | None = None,
) -> GangPlan:
    """Return the fastest plan for a clip from text at the model's own frame rate.

    Args:
        gpus: ranks of the gang. gpu_kind: ``h100``, ``h200`` or ``cpu``. seconds: of the clip; longer than the model's
            longest segment, a step is one of that segment. nvlink_domain: GPUs that NVLink joins. batch: segments of a
            step. quantize: of the weights. rates: of the hardware; None: those measured, else the roofline.

    Raises:
        PlanError: with the field, what does not divide or fit and by how much, and a plan that works.
    """
    work = _work(
        model, gpu_kind, width, height, seconds, nvlink_domain, batch, quantize, overrides or Overrides(), rates
    )
    if gpus < 1:
        raise PlanError("gpus", f"{gpus} is not at least 1")
    plans, problems = _try_all(work, gpus)
    if not plans:
        advice = _advice(work, gpus)
        raise PlanError("gpus", "; ".join(dict.fromkeys(problems)) + (f"; {advice}" if advice else ""))
    best = min(plans, key=lambda plan: (plan.time.total, plan.cfg_groups))
    return replace(best, why=tuple(_reasons(work, best, plans, problems)))


def preset_of(card: ModelCard) -> Preset:
    """Describe a checkpoint as a preset. Raises ModelError if its directory cannot be used."""
    parts = read_transformers(source_of(card))
    return Preset(
        name=card.name,
        weights=card.directory,
        config=transformer_config(parts[0]),
        vae=AutoencoderKind("", card.latent_channels, card.spatial, card.temporal),
        sampling=Sampling(
            card.fps,
            card.default_frames,
            card.default_steps,
            card.default_flow_shift or 1.0,
            card.default_guidance,
            trained_sizes=card.trained_sizes,
        ),
        transformers=len(parts),
        native_sizes=card.native_sizes,
    )


def _work(
    model: Preset | ModelCard,
    gpu_kind: str,
    width: int,
    height: int,
    seconds: float,
    domain: int,
    batch: int,
    quantize: Quantize,
    overrides: Overrides,
    rates: Rates | None,
) -> _Work:
    preset = preset_of(model) if isinstance(model, ModelCard) else model
    try:
        gear = hardware(gpu_kind)
    except ValueError as error:
        raise PlanError("gpu", str(error).removeprefix("gpu is ")) from None
    if width < 1 or height < 1:
        raise PlanError("size", f"{width}x{height} has a side below 1")
    if not (math.isfinite(seconds) and seconds > 0):
        raise PlanError("duration", f"{seconds} is not above 0")
    for field, value in (("nvlink", domain), ("batch", batch)):
        if value < 1:
            raise PlanError(field, f"{value} is not at least 1")
    if overrides.cfg_groups not in (None, 1, 2):
        raise PlanError("cfg_groups", f"{overrides.cfg_groups} is neither 1 nor 2")
    if quantize != "none" and (problem := why_exact(preset.config)) is not None:
        raise PlanError("quantize", f"{quantize} is not possible for {preset.name}: {problem}")
    width, height = preset.denoised_size(width, height)
    frames = frames_of(seconds, preset.sampling.fps, preset.vae.temporal)
    if isinstance(model, ModelCard) and model.segment_frames:
        frames = min(frames, model.segment_frames)
    return _Work(
        preset=preset,
        gear=gear,
        rates=rates or rates_of(gear),
        domain=domain,
        width=width,
        height=height,
        frames=frames,
        tokens=tokens_of(width, height, frames, preset.vae, preset.config.patch_size),
        forwards=2 if preset.sampling.guidance > 1 else 1,
        batch=batch,
        text_tokens=model.max_text_tokens if isinstance(model, ModelCard) else TEXT_TOKENS,
        quantize=quantize,
        overrides=overrides,
    )


def _try_all(work: _Work, gpus: int) -> tuple[list[GangPlan], list[str]]:
    """Plans that work, and what is wrong with the others. Noise experts are separated only if they must be."""
    places: tuple[NoiseExperts, ...] = ("together",)
    if work.preset.transformers > 1:
        places = ("together", "apart") if work.overrides.noise_experts is None else (work.overrides.noise_experts,)
    problems: list[str] = []
    for place in places:
        plans: list[GangPlan] = []
        for cfg, sequence in _layouts(work, gpus):
            made = _try(work, cfg, sequence, place)
            if isinstance(made, str):
                problems.append(made)
            else:
                plans.append(made)
        if plans:
            return plans, problems
    return [], problems


def _layouts(work: _Work, gpus: int) -> Iterator[tuple[int, int]]:
    """(guidance groups, sequence ranks): two groups if a step has two branches or segments to split."""
    for cfg in (1, 2):
        allowed = work.overrides.cfg_groups in (None, cfg) and (cfg == 1 or work.forwards * work.batch > 1)
        if allowed and gpus % cfg == 0:
            yield cfg, gpus // cfg


def _try(work: _Work, cfg: int, sequence: int, place: NoiseExperts) -> GangPlan | str:
    """A plan, or what is wrong with it."""
    config, ranks = work.config, cfg * sequence
    layout = f"{ranks} rank{'s' if ranks > 1 else ''}" if cfg == 1 else f"2 groups of {sequence}"
    heads, experts = config.num_attention_heads, config.moe.num_experts if config.moe is not None else 0
    if heads % sequence or experts % sequence:
        return f"{layout} do not divide {heads} heads" + (f" x {experts} experts" if experts else "")
    if work.gear.is_gpu and sequence > work.domain:
        return f"{layout} do not fit into an NVLink domain of {work.domain}"
    sequences = [work.tokens] * (work.forwards * work.batch)
    memory = _memory(work, cfg, sequence, place)
    if not memory.fits:
        apart = ", noise experts apart" if place == "apart" else ""
        return (
            f"{layout}{apart}: needs {_gib(memory.total)} GiB per rank of {_gib(memory.available)} "
            f"({_gib(memory.weights)} weights, {_gib(memory.activations)} activations)"
        )
    domains = cfg if work.gear.is_gpu and ranks > work.domain else 1
    time = step_time(
        config,
        sequences,
        work.rates,
        sequence_ranks=sequence,
        cfg_groups=cfg,
        apart=domains > 1,
        text_tokens=work.text_tokens,
        quantize=work.quantize,
    )
    return GangPlan(
        model=work.preset.name,
        gpu=work.gear.name,
        is_gpu=work.gear.is_gpu,
        ranks=ranks,
        sequence_ranks=sequence,
        cfg_groups=cfg,
        expert_ranks=sequence if experts else 1,
        noise_experts=place,
        domains=domains,
        width=work.width,
        height=work.height,
        frames=work.frames,
        tokens=work.tokens,
        sequences=len(sequences),
        memory=memory,
        time=time,
        origin=work.rates.origin,
        why=(),
        quantize=work.quantize,
    )


def _memory(work: _Work, cfg: int, sequence: int, place: NoiseExperts) -> Memory:
    config, gear = work.config, work.gear
    networks = work.preset.transformers if place == "together" else 1
    sequences = math.ceil(work.forwards * work.batch / cfg)
    tokens = work.tokens * sequences
    held = rank_memory(config, tokens, sequence, networks, value_bytes=gear.value_bytes, quantize=work.quantize)
    latents = 4 * work.tokens * math.prod(config.patch_size) * config.out_channels
    rows = max(MESSAGE_ROWS, ranks_of_token(config, sequence)) if sequence > 1 else 0
    messages = math.ceil(math.ceil(tokens / sequence) * rows * config.dim * gear.value_bytes)
    available = gear.memory // (cfg * sequence) if gear.shared_memory else gear.memory
    kept = config.remembered_values(work.text_tokens) * gear.value_bytes * sequences * networks
    buffers = LATENT_COPIES * latents * work.batch + messages + kept
    return Memory(held.weights, held.activations, buffers, gear.reserve, available)


def _advice(work: _Work, gpus: int) -> str:
    """What would work instead: other numbers of GPUs, the nearest larger and smaller one, or a smaller size."""
    good = [n for n in range(1, 2 * work.domain + 1) if n != gpus and _try_all(work, n)[0]]
    larger, smaller = [n for n in good if n > gpus], [n for n in good if n < gpus]
    counts = [str(n) for n in (*larger[:1], *smaller[-1:])]
    found = [f"{' or '.join(counts)} rank{'' if counts == ['1'] else 's'}"] if counts else []
    if counts and not larger and gpus >= 2 * smaller[-1]:
        found = [f"{gpus // smaller[-1]} gangs of {smaller[-1]}"]
    if not work.preset.native_sizes:
        for name, sizes in sorted(SIZES.items(), key=lambda item: -math.prod(item[1]["16:9"])):
            width, height = work.preset.denoised_size(*sizes["16:9"])
            if width * height < work.width * work.height:
                tokens = tokens_of(width, height, work.frames, work.preset.vae, work.config.patch_size)
                if _try_all(replace(work, width=width, height=height, tokens=tokens), gpus)[0]:
                    found.append(name)
                    break
    return f"{' or '.join(found)} would work" if found else ""


def _reasons(work: _Work, best: GangPlan, plans: list[GangPlan], problems: list[str]) -> Iterator[str]:
    config, moe, sequence = work.config, work.config.moe, best.sequence_ranks
    if best.ranks == 1:
        yield "One rank holds the whole network and has nothing to exchange."
    elif sequence > 1:
        shared = f"{config.num_attention_heads} heads" + (f" and {moe.num_experts} experts" if moe else "")
        groups = "Two groups, each with half of the guidance branches; in a group " if best.cfg_groups == 2 else "All "
        yield f"{groups}{sequence} ranks share the tokens, and with them {shared}, which {sequence} divides."
    else:
        yield "Two ranks, each with half of the guidance branches: only velocities are exchanged."
    for other in plans:
        if other is not best:
            more = other.time.total / best.time.total - 1
            layout = "Two groups" if other.cfg_groups == 2 else "One group"
            yield f"{layout} of {other.sequence_ranks} would take {other.time.total:.3g} s a step, {more:.1%} longer."
    for problem in dict.fromkeys(problems):
        yield f"Not possible: {problem}."
    if moe is not None:
        mine = moe.num_experts // best.expert_ranks
        even = "as many rows for every rank" if balanced(config, sequence) else "not quite as many rows for every rank"
        rows = f"a token goes to {moe.top_k} of them, {even}"
        yield f"A rank holds {mine} of {moe.num_experts} experts of each routed layer and all other weights; {rows}."
    if work.quantize != "none":
        yield f"{described(config, work.quantize)}. Their products are predicted at the speed of the others."
    if work.preset.transformers > 1 and best.noise_experts == "together":
        yield "Both noise experts fit on every rank: a segment stays where it is at the boundary."
    elif work.preset.transformers > 1:
        yield f"The noise experts live apart, on two gangs of {best.ranks}; a segment moves over at the boundary."
    if best.domains > 1:
        yield f"Each group has an NVLink domain of its own; only velocities cross {work.gear.outside.name}."
    elif best.ranks > 1 and work.gear.is_gpu:
        yield f"All ranks are inside one NVLink domain of {work.domain}."
    if best.time.total:
        wait = (best.time.all_to_all + best.time.gather) / best.time.total
        yield f"{best.time.attention / best.time.total:.0%} of a step is attention, {wait:.0%} is waiting for messages."
    if best.time.hidden:
        share = best.time.hidden / best.time.total
        yield f"Messages of {share:.0%} of a step more travel while ranks compute."


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
