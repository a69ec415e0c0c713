"""What a job costs, in GPU-seconds, before it runs: pure functions of its request and of what engines have learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoetrope.cluster.planning.calibration import known_rates
from zoetrope.cluster.planning.cost_fit import CostFit
from zoetrope.cluster.planning.hardware import HARDWARE, Hardware, hardware_of
from zoetrope.cluster.planning.step_costs import Load, StepCosts, Streaming
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.request.sequence_tokens import clip_tokens
from zoetrope.model.request.specs import SegmentSpec, VideoSpec, segment_of
from zoetrope.model.request.steps import branch_count, computes
from zoetrope.model.request.tasks import ModelCard

# Assumed, until jobs have been measured: what a stage costs in any case, and FLOPs of Wan's autoencoder for a pixel of
# a frame, about what others report for 480p on an H100. nano's is linear, and costs next to nothing.
STAGE_SECONDS = 0.05
DECODED_FLOPS, ENCODED_FLOPS, LINEAR_FLOPS = 75e6, 40e6, 4e3
SMALL_CELL = 4  # pixels of a latent cell of a linear autoencoder

StageName = Literal["conditioning", "decoding"]


@dataclass(frozen=True)
class Price:
    """GPU-seconds of a job by stage."""

    conditioning: float
    denoising: float
    decoding: float

    @property
    def total(self) -> float:
        return self.conditioning + self.denoising + self.decoding


@dataclass
class StageCosts:
    """Seconds of the conditioner and the decoder for a job: a fit to those measured, from a prior for ``gear``.

    Attributes:
        pixel: seconds of a pixel of a frame, of the prior, by stage.
    """

    pixel: dict[str, float]
    fits: dict[str, CostFit] = field(default_factory=lambda: {"conditioning": CostFit(2), "decoding": CostFit(2)})

    @classmethod
    def prior(cls, card: ModelCard, gear: Hardware) -> StageCosts:
        """Predict from the roofline alone."""
        rate = gear.peak * gear.products
        linear = card.spatial <= SMALL_CELL
        flops = {"conditioning": ENCODED_FLOPS, "decoding": DECODED_FLOPS}
        return cls({stage: (LINEAR_FLOPS if linear else one) / rate for stage, one in flops.items()})

    def seconds(self, stage: StageName, spec: VideoSpec, card: ModelCard) -> float:
        """Predict a stage of a whole job, on one device."""
        features = self._features(stage, spec, card)
        return sum(factor * one for factor, one in zip(self.fits[stage].factors, features, strict=True))

    def observe(self, stage: StageName, spec: VideoSpec, card: ModelCard, seconds: float) -> None:
        """Learn from a stage of a whole job that took so long."""
        if seconds > 0:
            predicted = self.seconds(stage, spec, card)
            self.fits[stage].observe(self._features(stage, spec, card), seconds, predicted)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        factors = {stage: [float(f"{one:.6g}") for one in fit.factors] for stage, fit in self.fits.items()}
        return {"pixel": self.pixel, "factors": factors, "seen": {stage: fit.seen for stage, fit in self.fits.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageCosts:
        """Invert `to_dict`."""
        fits = {stage: CostFit(2, factors, int(data["seen"][stage])) for stage, factors in data["factors"].items()}
        return cls({stage: float(one) for stage, one in data["pixel"].items()}, fits)

    def _features(self, stage: StageName, spec: VideoSpec, card: ModelCard) -> tuple[float, float]:
        """Seconds of the prior: in any case, and for the pixels."""
        spans = len(spec.spans)
        if stage == "conditioning":
            return STAGE_SECONDS * spans, self.pixel[stage] * _encoded(spec, card)
        return STAGE_SECONDS, self.pixel[stage] * _decoded(spec)


@dataclass
class EngineCosts:
    """All that a price needs to know of an engine; it travels in `EngineRow.costs`.

    Attributes:
        company: segments of a step, on average. most_tokens: of a step that fit into the engine; 0: not known.
        decoders: devices that share the decoding of a clip.
    """

    step: StepCosts
    stages: StageCosts
    company: float = 1.0
    most_tokens: int = 0
    decoders: int = 1

    @classmethod
    def prior(
        cls,
        card: ModelCard,
        device: str,
        *,
        ranks: int = 1,
        cfg_groups: int = 1,
        adapter_rank: int = 64,
        streaming: Streaming | None = None,
        most_tokens: int = 0,
        decoders: int = 1,
    ) -> EngineCosts:
        """Predict from the roofline of a device, by torch's name for it.

        Raises:
            ModelError: the model's files cannot be read.
        """
        gear = HARDWARE[device] if device in HARDWARE else hardware_of(device)
        step = StepCosts.prior(
            transformer_config(read_transformers(source_of(card))[0]),
            known_rates(gear),
            ranks=ranks,
            cfg_groups=cfg_groups,
            text_tokens=card.max_text_tokens,
            quantize=card.quantize,
            adapter_rank=adapter_rank,
            streaming=streaming,
        )
        return cls(step, StageCosts.prior(card, gear), most_tokens=most_tokens, decoders=decoders)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: those of `StepCosts`, and ours beside them."""
        return {
            **self.step.to_dict(),
            "stages": self.stages.to_dict(),
            "company": round(self.company, 3),
            "most_tokens": self.most_tokens,
            "decoders": self.decoders,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineCosts:
        """Invert `to_dict`.

        Raises:
            ValueError: it is something else.
        """
        step = StepCosts.from_dict(data)
        try:
            stages = StageCosts.from_dict(data["stages"])
            return cls(step, stages, float(data["company"]), int(data["most_tokens"]), int(data["decoders"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"costs: {error!r} in what should be the costs of an engine") from None


def load_of(segment: SegmentSpec, card: ModelCard, step: int | None = None) -> Load:
    """Return what a step of a segment, number ``step`` from 0, adds to a batch; None: the largest one."""
    _, t, h, w = segment.latent_shape
    tokens = clip_tokens(t, h, w, card) + segment.beside
    return Load(tokens, branch_count(segment, step), len(segment.loras))


def price_of(spec: VideoSpec, card: ModelCard, costs: EngineCosts) -> Price:
    """Predict the GPU-seconds of a job: its share of every step that is computed, and the stages before and after."""
    denoising = 0.0
    for index in range(len(spec.spans)):
        segment = segment_of(spec, "", index)
        counts: dict[Load, int] = {}
        for step in range(segment.steps):
            if computes(segment, step):
                load = load_of(segment, card, step)
                counts[load] = counts.get(load, 0) + 1
        denoising += sum(count * costs.step.share_seconds(load, costs.company) for load, count in counts.items())
    stages = costs.stages
    return Price(
        conditioning=stages.seconds("conditioning", spec, card),
        denoising=denoising * costs.step.ranks,
        decoding=stages.seconds("decoding", spec, card) * costs.decoders,
    )


def _decoded(spec: VideoSpec) -> int:
    """Pixels that are decoded, those of the end of a segment twice: the next one continues it."""
    frames = sum(span.frames for span in spec.spans) + sum(span.frames for span in spec.spans[:-1])
    return frames * spec.native_width * spec.native_height


def _encoded(spec: VideoSpec, card: ModelCard) -> int:
    """Pixels that are encoded: sources, given frames, and with some conditioners whole clips."""
    cell = card.size_multiple**2 * card.temporal
    pixels = sum(spec.beside) * cell
    frame = spec.native_width * spec.native_height
    whole = {"channels": 1, "vace": 2}.get(card.conditioner, 0)
    if spec.task.kind in ("image_to_video", "first_last_frame"):
        pixels += frame
    return pixels + frame * (whole * sum(span.frames for span in spec.spans) + sum(s.known for s in spec.spans))
