"""One rank of a gang: holds the model and the segments, and takes the steps that the leader passes on."""

from __future__ import annotations

import time
from dataclasses import dataclass

import ray

from cluster.messages import Failed, Finished, Held, Plan
from model.checkpoints import configure_torch, load_denoiser
from model.conditions import Conditions, blank_conditions
from model.denoise import Segment
from model.tasks import ModelCard, SegmentSpec


@dataclass(frozen=True)
class Outcome:
    """What a plan came to."""

    held: tuple[Held, ...]
    finished: tuple[Finished, ...]
    failed: tuple[Failed, ...]
    step_seconds: float
    step_tokens: int


class Rank:
    """Run as a Ray actor by the engine; its methods are called one at a time."""

    def __init__(self, card: ModelCard) -> None:
        device = configure_torch()
        self._denoiser = load_denoiser(card, device)
        self._segments: dict[str, Segment] = {}
        self._warm_up(card)

    def execute(self, plan: Plan) -> Outcome:
        """Drop, admit, take one step, and hand out what is finished."""
        failed: list[Failed] = []
        for segment_id in plan.drop:
            self._segments.pop(segment_id, None)
        for admit in plan.admit:
            try:
                conditions: Conditions = ray.get(admit.conditions)
                self._segments[admit.spec.id] = self._denoiser.start(admit.spec, conditions)
            except Exception as error:
                failed.append(Failed(admit.spec.id, _reason(error)))
        started = time.monotonic()
        batch = [self._segments[i] for i in plan.advance if i in self._segments]
        tokens = self._step(batch, failed) if batch else 0
        for failure in failed:
            self._segments.pop(failure.id, None)
        finished = [s for s in self._segments.values() if s.sampler.done]
        for segment in finished:
            del self._segments[segment.spec.id]
        return Outcome(
            held=tuple(Held(s.spec.id, s.sampler.step) for s in self._segments.values()),
            finished=tuple(Finished(s.spec.id, ray.put(s.result().cpu())) for s in finished),
            failed=tuple(failed),
            step_seconds=time.monotonic() - started if batch else 0.0,
            step_tokens=tokens,
        )

    def _step(self, batch: list[Segment], failed: list[Failed]) -> int:
        """One step; where the batch fails, each segment alone, so that only the culprit fails."""
        try:
            return self._denoiser.step(batch)
        except Exception as error:
            if len(batch) == 1:
                failed.append(Failed(batch[0].spec.id, _reason(error)))
                return 0
        return sum(self._step([segment], failed) for segment in batch)

    def _warm_up(self, card: ModelCard) -> None:
        """One step of the smallest clip, so that the first job meets no lazy initialisation."""
        side = card.size_multiple // card.spatial
        spec = SegmentSpec("warm-up", (card.latent_channels, 1, side, side), 1, 1.0, 0)
        config = self._denoiser.transformer.config
        text = self._denoiser.transformer.proj_out.weight.new_zeros(card.max_text_tokens, config.text_dim)
        conditions = blank_conditions(config, spec.latent_shape, text)
        self._denoiser.step([self._denoiser.start(spec, conditions)])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
