"""A rank carries out plans: it admits, advances and drops segments, and a bad one harms nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, ObjectStoreFullError, RayTaskError

from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.cluster.engine import warm_up
from zoetrope.cluster.engine.gang import Gang, GangFailed
from zoetrope.cluster.engine.rank import Rank
from zoetrope.cluster.engine.rank_process import RankError, RankLost
from zoetrope.cluster.protocol.messages import Admit, StepPlan
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import ModelCard, TextToVideo, VideoRequest

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    directory = tmp_path_factory.mktemp("tiny-wan")
    write_t2v(directory)
    return find_model(str(directory))


def spec_for(card: ModelCard, **fields: Any) -> VideoSpec:
    request = VideoRequest(
        task=TextToVideo(prompt="a red circle"), **{"size": "32x32", "frames": 5, "steps": 3, "seed": 1, **fields}
    )
    return resolve(request, card, 0)


def alone(card: ModelCard, **fields: Any) -> Rank:
    """A gang of one rank."""
    rank = Rank(card, EngineSettings(**fields))
    rank.join(0, "")
    return rank


def admit(card: ModelCard, segment_id: str, spec: VideoSpec) -> Admit:
    local = LocalPipeline.load(card)
    conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
    return Admit(segment_of(spec, segment_id), ray.put(conditions))


def test_the_shapes_of_the_settings_are_warmed_up(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that no clip can have stands for the next larger one."""
    shapes: list[tuple[int, ...]] = []
    step = Denoiser.step

    def recorded(denoiser: Denoiser, segments: list[Segment]) -> int:
        shapes.extend(segment.spec.latent_shape[1:] for segment in segments)
        return step(denoiser, segments)

    monkeypatch.setattr(Denoiser, "step", recorded)
    joined = Rank(card, EngineSettings(warmup_shapes=((32, 32, 5), (50, 32, 6)))).join(0, "")
    assert shapes[-2:] == [(2, 4, 4), (3, 4, 8)]
    assert len(joined.warmed) == 2  # of other steps: these are the first of their shapes, which says little
    assert [phase for phase, _ in joined.phases] == ["read", "hash", "warm_up"]
    assert all(seconds >= 0 for _, seconds in joined.phases)


@pytest.mark.parametrize(("long_seconds", "times"), [(1e9, 2), (0.0, 1)])
def test_a_long_step_of_the_warm_up_is_not_taken_again(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, long_seconds: float, times: int
) -> None:
    shapes: list[tuple[int, ...]] = []
    step = Denoiser.step

    def recorded(denoiser: Denoiser, segments: list[Segment]) -> int:
        shapes.extend(segment.spec.latent_shape[1:] for segment in segments)
        return step(denoiser, segments)

    monkeypatch.setattr(Denoiser, "step", recorded)
    monkeypatch.setattr(warm_up, "LONG_SECONDS", long_seconds)
    assert len(Rank(card, EngineSettings()).join(0, "").warmed) == 2
    assert sorted(Counter(shapes).values()) == [times, times]


def test_segments_join_and_leave_the_batch_and_end_as_in_the_local_pipeline(card: ModelCard) -> None:
    rank, local = alone(card), LocalPipeline.load(card)
    first, second = spec_for(card), spec_for(card, size="48x32", steps=2, seed=2, guidance=1.0)
    outcome = rank.execute(StepPlan(admit=(admit(card, "a", first),), advance=("a",)))
    assert [(h.id, h.step) for h in outcome.held] == [("a", 1)]
    assert outcome.step_tokens == 2 * 2 * 2 * 2  # two branches of two latent frames of 2 x 2 patches
    assert outcome.step_seconds > 0
    outcome = rank.execute(StepPlan(admit=(admit(card, "b", second),), advance=("a", "b")))
    assert [(h.id, h.step) for h in outcome.held] == [("a", 2), ("b", 1)]
    outcome = rank.execute(StepPlan(advance=("a", "b")))
    assert outcome.held == ()
    done = {f.id: torch.from_numpy(np.array(ray.get(f.latents))) for f in outcome.finished}
    assert torch.allclose(done["a"], local.run(first)[0], rtol=0, atol=1e-5)
    assert torch.allclose(done["b"], local.run(second)[0], rtol=0, atol=1e-5)


def test_a_dropped_segment_is_forgotten(card: ModelCard) -> None:
    rank = alone(card)
    rank.execute(StepPlan(admit=(admit(card, "a", spec_for(card)),), advance=("a",)))
    outcome = rank.execute(StepPlan(drop=("a", "unknown"), advance=("a",)))
    assert (outcome.held, outcome.finished, outcome.failed, outcome.step_tokens) == ((), (), (), 0)


def test_a_rank_that_failed_refuses_every_plan(card: ModelCard) -> None:
    """Its peers are in the step that it left: another one's messages would be taken for that one's."""
    rank = alone(card)
    with pytest.raises(RankError, match="AttributeError: "):
        rank.execute(StepPlan(admit=(None,)))  # type: ignore[arg-type]
    with pytest.raises(RankError, match="an earlier plan failed on this rank"):
        rank.execute(StepPlan())


def test_only_the_segment_that_breaks_the_batch_fails(card: ModelCard) -> None:
    rank = alone(card)
    spec = spec_for(card)
    broken = Admit(segment_of(spec, "broken"), ray.put(Conditions(torch.zeros(4, 7), torch.zeros(4, 7))))
    without_negative = Admit(segment_of(spec, "without"), ray.put(Conditions(torch.zeros(4, 32), None)))
    outcome = rank.execute(
        StepPlan(
            admit=(admit(card, "good", spec), broken, without_negative),
            advance=("good", "broken", "without"),
        )
    )
    assert [(h.id, h.step) for h in outcome.held] == [("good", 1)]
    assert {f.id for f in outcome.failed} == {"broken", "without"}
    assert all("\n" not in f.reason for f in outcome.failed)
    for _ in range(2):
        outcome = rank.execute(StepPlan(advance=("good",)))
    assert torch.allclose(
        torch.from_numpy(np.array(ray.get(outcome.finished[0].latents))),
        LocalPipeline.load(card).run(spec)[0],
        rtol=0,
        atol=1e-5,
    )


def test_a_rank_that_lost_its_device_blames_nobody(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its segments would fail by itself, and all to come."""
    rank = alone(card)
    plan = StepPlan(admit=(admit(card, "a", spec_for(card)), admit(card, "b", spec_for(card))), advance=("a", "b"))

    def step(_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(rank._denoiser, "step", step)
    with pytest.raises(RankLost, match=r"^AcceleratorError: CUDA error"):
        rank.execute(plan)


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (RankLost("AcceleratorError: CUDA error"), "died"),
        (RankError("OutOfMemoryError: CUDA out of memory"), "raised"),
        (RankError("ValueError: a shape"), "raised"),
        (ObjectStoreFullError(), "died"),
        (ActorDiedError(), "died"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_who_is_at_fault_for_a_lost_gang(card: ModelCard, error: Exception, loss: str) -> None:
    ours = isinstance(error, RankError)
    arrived = RayTaskError("execute", "Traceback", error).as_instanceof_cause() if ours else error
    step = asyncio.get_running_loop().create_future()
    step.set_exception(arrived)
    with pytest.raises(GangFailed) as failed:
        await Gang(card, EngineSettings(), ()).collect([step], 5.0)
    assert failed.value.loss == loss
