"""What an engine's steps leave in metrics, and in the traces of the segments that were in them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from tests.cluster.telemetry.spans import PARENT, kept_spans, parent_of
from zoetrope.cluster.engine.rank_process import StepOutcome
from zoetrope.cluster.engine.step_record import StepRecord
from zoetrope.cluster.protocol.messages import Admit, Failed, Finished, HeldSegment, StepPlan, StepShare
from zoetrope.cluster.telemetry.catalogue import REGISTRY
from zoetrope.model.request.specs import SegmentSpec

OTHER = PARENT.replace("00f067aa0ba902b7", "1111111111111111")


def admitted(segment_id: str, trace: str = "") -> Admit:
    return Admit(SegmentSpec(segment_id, (4, 1, 2, 2), 3, 1.0, 0), None, trace=trace)


def outcome(*ids: str, finished: tuple[str, ...] = (), step: int = 1) -> StepOutcome:
    return StepOutcome(
        held=tuple(HeldSegment(i, step) for i in ids if i not in finished),
        finished=tuple(Finished(i, None) for i in finished),
        step_seconds=0.5,
        step_tokens=100 * len(ids),
        shares=tuple(StepShare(i, 100, 1) for i in ids),
    )


def value(name: str, registry: CollectorRegistry = REGISTRY) -> float:
    return registry.get_sample_value(name, {"model": "a-model"}) or 0.0


def test_steps_are_counted_with_their_batch() -> None:
    before = {name: value(f"zoetrope_step_{name}") for name in ("seconds_count", "batch_size_sum", "tokens_sum")}
    record = StepRecord("e")
    record.note(outcome("a/1/0", "b/1/0"), "a-model", 1)
    record.note(StepOutcome(), "a-model", 1)  # a plan without a step
    after = {name: value(f"zoetrope_step_{name}") - old for name, old in before.items()}
    assert after == {"seconds_count": 1, "batch_size_sum": 2, "tokens_sum": 200}


def test_a_step_is_in_the_trace_of_each_segment_that_it_advanced() -> None:
    record = StepRecord("e")
    with kept_spans() as kept:
        record.follow(StepPlan(admit=(admitted("a/1/0", PARENT), admitted("b/1/0", OTHER), admitted("c/1/0"))))
        record.note(outcome("a/1/0", "b/1/0", "c/1/0", step=1), "a-model", 4)
        record.note(outcome("a/1/0", "b/1/0", finished=("a/1/0",), step=2), "a-model", 5)
        record.note(outcome("a/1/0", "b/1/0", step=3), "a-model", 5)
        spans = kept.get_finished_spans()
    told = [(parent_of(s), dict(s.attributes or {})) for s in spans]
    mine = [about for parent, about in told if parent == "00f067aa0ba902b7"]
    assert [about.get("zoetrope.step") for about in mine] == [1, None]
    assert [about["zoetrope.gang.epoch"] for about in mine] == [4, 5]
    assert [about["zoetrope.batch.segments"] for about in mine] == [3, 2]
    assert {about["zoetrope.job.id"] for about in mine} == {"a"}
    assert [about["zoetrope.step"] for parent, about in told if parent == "1" * 16] == [1, 2, 3]
    assert len(spans) == 5


def test_segments_that_leave_are_forgotten() -> None:
    record = StepRecord("e")
    with kept_spans() as kept:
        record.follow(StepPlan(admit=tuple(admitted(i, PARENT) for i in "abc")))
        record.follow(StepPlan(drop=("a",)))
        record.note(StepOutcome(failed=(Failed("b", "broken"),), handed_over=("c",)), "a-model", 1)
        record.note(outcome("a", "b", "c"), "a-model", 1)
        assert not kept.get_finished_spans()
