"""What a request may say about how its clip is sampled, beside steps and guidance. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from zoetrope.model.request.tasks import MAX_FLOW_SHIFT, MIN_FLOW_SHIFT, ModelCard, VideoRequest, Violation

MAX_REQUEST_LORAS = 2
MAX_REQUEST_STRENGTH = 2.0


def sampling_violations(request: VideoRequest, card: ModelCard) -> Iterator[Violation]:
    """Yield what is wrong with a request's schedule and adapters; see `model.request.savings` for quality and the
    interval of guidance."""
    if card.profile is None:  # which would decide the schedule
        yield from _schedule_violations(request, card)
    if len(request.loras) > MAX_REQUEST_LORAS:
        yield Violation("loras", f"has {len(request.loras)} entries, at most {MAX_REQUEST_LORAS} are allowed")
    for number, lora in enumerate(request.loras):
        strengths = {"strength": lora.strength, "strength_low": lora.strength_low}
        for name, strength in strengths.items():
            if strength is not None and not abs(strength) <= MAX_REQUEST_STRENGTH:
                limit = f"must be from {-MAX_REQUEST_STRENGTH:g} to {MAX_REQUEST_STRENGTH:g}"
                yield Violation(f"loras.{number}.{name}", f"{strength} {limit}")
        if lora.strength_low is not None and card.boundary is None:
            given = f"{lora.strength_low} given, but {card.name} has no two noise experts"
            yield Violation(f"loras.{number}.strength_low", given)


def _schedule_violations(request: VideoRequest, card: ModelCard) -> Iterator[Violation]:
    shift = request.flow_shift
    if shift is not None and card.default_flow_shift is None:
        yield Violation("flow_shift", f"{shift} given, but {card.name} has none")
    if shift is not None and not MIN_FLOW_SHIFT <= shift <= MAX_FLOW_SHIFT:
        yield Violation("flow_shift", f"{shift} must be from {MIN_FLOW_SHIFT:g} to {MAX_FLOW_SHIFT:g}")
    if request.sampler is not None and card.default_flow_shift is None:
        kept = f"{request.sampler} given, but the noise levels of {card.name} come from no flow shift to keep"
        yield Violation("sampler", kept)
