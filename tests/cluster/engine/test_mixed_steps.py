"""Jobs of all kinds share the steps of a rank as the router's policy decides, and end as they do alone."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from tests.serving.router.costs import costs_where_company_saves
from zoetrope.cluster.engine.rank import Rank
from zoetrope.cluster.protocol.messages import Admit, Owner, Report, StepPlan
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.format import Fingerprint, Snapshot
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.model.catalog.model_card import scheduler_config
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.denoising.resume import sampler_of
from zoetrope.model.nano.cases import NanoCase, held_out
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.pipeline import LocalPipeline, condition_span
from zoetrope.model.request.specs import SegmentSpec, segment_of
from zoetrope.serving.router.active import Active
from zoetrope.serving.router.pricing import load_of
from zoetrope.serving.router.state import RouterState

pytestmark = pytest.mark.usefixtures("ray_session")

CARD = find_model("nano")
KINDS: tuple[TaskKind, ...] = ("text_to_video", "image_to_video", "reference_to_video", "edit_video")
STEPS = (3, 4, 5, 4)


def cases() -> dict[str, NanoCase]:
    """One of each kind, in four shapes."""
    return {kind: held_out(kind, CARD, 1 + number, 7, steps=STEPS[number])[number] for number, kind in enumerate(KINDS)}


def test_jobs_of_four_kinds_shapes_and_lengths_share_steps_and_end_as_alone() -> None:
    rank, local, made = Rank(CARD, EngineSettings()), LocalPipeline.load(CARD), cases()
    rank.join(0, "")
    assert len({case.spec.latent_shape for case in made.values()}) == 4
    state = RouterState(100_000, 10.0, costs_where_company_saves)
    coming = list(made)
    report = Report("e", 1, "nano")
    done: dict[str, torch.Tensor] = {}
    steps: list[set[str]] = []
    for now in range(12):
        if coming and now != 1:  # one more before most steps, so that they join at different steps of the others
            kind = coming.pop(0)
            case = made[kind]
            segment = segment_of(case.spec, kind)
            conditions = condition_span(local.text, local.conditioner, case.spec, case.inputs, 0, None)
            load = load_of(segment, CARD)
            tokens = load.tokens * load.branches
            state.add(Active(segment, tokens, ray.put(conditions), model="nano", created_at=float(now)))
        for segment_id, latents in state.apply(report, float(now)).finished:
            done[segment_id] = torch.from_numpy(np.array(ray.get(latents)))
        plan = state.plan(report, float(now))
        outcome = rank.execute(plan)
        steps.append({*plan.advance})
        report = Report("e", 1, "nano", held=outcome.held, finished=outcome.finished, step_seconds=outcome.step_seconds)
    assert {*done} == {*KINDS}
    assert max(len(step) for step in steps) >= 3, "they share steps"
    assert sum(len(step) > 1 for step in steps) >= 3
    for kind, case in made.items():
        alone = local.run(case.spec, case.inputs)[0]
        assert torch.allclose(done[kind], alone, rtol=0, atol=2e-5), kind


def test_a_released_segment_goes_on_elsewhere_from_where_it_was(tmp_path: Path) -> None:
    case, local, owner = cases()["edit_video"], LocalPipeline.load(CARD), Owner("job", 0, 1)
    first, second = two_ranks(tmp_path)
    spec, conditions = conditioned(case, local)
    assert first.execute(StepPlan(admit=(Admit(spec, conditions, owner),), advance=("a",))).held[0].step == 1
    outcome = first.execute(StepPlan(release=("a", "unknown")))
    assert outcome.held == () and outcome.failed == ()
    data = newest(tmp_path, spec, owner)
    assert data is not None
    outcome = second.execute(StepPlan(admit=(Admit(spec, conditions, owner, ray.put(data)),), advance=("a",)))
    assert outcome.held[0].step == 2, "no step is taken twice"
    while outcome.held:
        outcome = second.execute(StepPlan(advance=("a",)))
    found = torch.from_numpy(np.array(ray.get(outcome.finished[0].latents)))
    assert torch.allclose(found, local.run(case.spec, case.inputs)[0], rtol=0, atol=2e-5)


def test_a_segment_that_ended_ends_elsewhere_without_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its latents may be lost before they are decoded, with a router that stops at the same time as the engine; the
    store is slow."""
    case, owner = cases()["text_to_video"], Owner("job", 0, 1)
    first, second = two_ranks(tmp_path)
    spec, conditions = conditioned(case, LocalPipeline.load(CARD))
    stopping, put = threading.Event(), SnapshotStore.put

    def slow_put(store: SnapshotStore, snapshot: Snapshot) -> str:
        assert stopping.wait(60)
        return put(store, snapshot)

    monkeypatch.setattr(SnapshotStore, "put", slow_put)
    outcome = first.execute(StepPlan(admit=(Admit(spec, conditions, owner),), advance=("a",)))
    while outcome.held:
        outcome = first.execute(StepPlan(advance=("a",)))
    threading.Timer(0.2, stopping.set).start()
    first.checkpoint(60.0)  # what an engine does last
    data = newest(tmp_path, spec, owner)
    assert data is not None
    again = second.execute(StepPlan(admit=(Admit(spec, conditions, owner, ray.put(data)),), advance=("a",)))
    assert (again.held, again.step_tokens) == ((), 0)
    before, after = (np.array(ray.get(one.finished[0].latents)) for one in (outcome, again))
    assert np.array_equal(before, after)


def two_ranks(snapshots: Path) -> tuple[Rank, Rank]:
    """Two engines of one rank each, which keep their snapshots in one place and make none for lack of time."""
    settings = EngineSettings(snapshots=str(snapshots), snapshot_seconds=1_000.0)
    first, second = Rank(CARD, settings), Rank(CARD, settings)
    for rank in (first, second):
        rank.join(0, "")
    return first, second


def conditioned(case: NanoCase, local: LocalPipeline) -> tuple[SegmentSpec, Any]:
    """A case's segment and its conditions."""
    conditions = condition_span(local.text, local.conditioner, case.spec, case.inputs, 0, None)
    return segment_of(case.spec, "a"), ray.put(conditions)


def newest(folder: Path, spec: SegmentSpec, owner: Owner) -> bytes | None:
    """The snapshot from which an engine would resume a segment."""
    config = scheduler_config(CARD)
    check = partial(sampler_of, scheduler_config=config, spec=spec, lead=None)
    return SnapshotStore(str(folder)).latest_bytes(owner, Fingerprint.of(weights_of(CARD), spec, config), check)
