"""What a request may say about how its clip is sampled, beside steps and guidance. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from zoetrope.model.request.tasks import ModelCard, VideoRequest, Violation

MAX_REQUEST_LORAS = 2
MAX_REQUEST_STRENGTH = 2.0


def sampling_violations(request: VideoRequest, card: ModelCard) -> Iterator[Violation]:
    """Yield what is wrong with a request's adapters; see `model.request.savings` for quality and the interval
    of guidance."""
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
