"""What metrics and traces tell of an engine's steps."""

from __future__ import annotations

from zoetrope.cluster.engine.rank_process import StepOutcome
from zoetrope.cluster.protocol.messages import StepPlan
from zoetrope.cluster.telemetry.metrics import BATCH_SIZE, STEP_SECONDS, STEP_TOKENS
from zoetrope.cluster.telemetry.traces import JOB, MODEL, past_span


class StepRecord:
    """Counts the steps of an engine. In the trace of each segment that a step had in its batch it is a span."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._traces: dict[str, str] = {}  # of each segment that has one, while it is here

    def follow(self, plan: StepPlan) -> None:
        """Take note of the traces of segments that a plan admits."""
        for segment_id in plan.drop:
            self._traces.pop(segment_id, None)
        self._traces.update({admit.spec.id: admit.trace for admit in plan.admit if admit.trace})

    def note(self, outcome: StepOutcome, model: str, epoch: int) -> None:
        """Count a plan's step, if it had one, which has just ended."""
        if outcome.step_tokens:
            STEP_SECONDS.labels(model).observe(outcome.step_seconds)
            BATCH_SIZE.labels(model).observe(len(outcome.shares))
            STEP_TOKENS.labels(model).observe(outcome.step_tokens)
            self._trace(outcome, model, epoch)
        gone = [*(f.id for f in outcome.finished), *(f.id for f in outcome.failed), *outcome.handed_over]
        for segment_id in gone:
            self._traces.pop(segment_id, None)

    def _trace(self, outcome: StepOutcome, model: str, epoch: int) -> None:
        steps = {held.id: held.step for held in outcome.held}
        for share in outcome.shares:
            if (parent := self._traces.get(share.id)) is None:
                continue
            about: dict[str, str | int] = {
                JOB: share.id.partition("/")[0],
                MODEL: model,
                "zoetrope.engine.id": self._engine,
                "zoetrope.gang.epoch": epoch,
                "zoetrope.batch.segments": len(outcome.shares),
                "zoetrope.batch.tokens": outcome.step_tokens,
            }
            if share.id in steps:  # else it was the last one
                about["zoetrope.step"] = steps[share.id]
            past_span("step", parent, outcome.step_seconds, about)
