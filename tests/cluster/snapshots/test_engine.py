"""An engine starts each segment from the newest snapshot that fits, and fails none because of one that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tests.cluster.fake_router import start_engine
from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.format import Fingerprint, Snapshot
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.denoising.resume import SegmentState, state_of
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import segment_of
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

pytestmark = pytest.mark.usefixtures("ray_session")
STEPS = 8


def nan(state: SegmentState) -> SegmentState:
    return state.with_tensors({**state.tensors(), "latents": state.latents / 0})


def lacking(state: SegmentState) -> SegmentState:
    return state.with_tensors({"latents": state.latents})


def longer(state: SegmentState) -> SegmentState:
    """By a frame, everywhere."""
    return state.with_tensors({n: torch.cat([t, t[..., -1:, :, :]], -3) for n, t in state.tensors().items()})


def other_order(state: SegmentState) -> SegmentState:
    return replace(state, sampler=replace(state.sampler, scalars={"lower_order_nums": 2, "this_order": 1}))


# By segment: the snapshots that there are, by step, each changed or left as it was, and the step that it starts from.
CASES: dict[str, tuple[dict[int, Any], int]] = {
    "good": ({3: None, 5: None}, 5),
    "nan": ({3: None, 5: nan}, 3),
    "lacking": ({3: None, 5: lacking}, 3),
    "longer": ({3: None, 5: longer}, 3),
    "other-order": ({3: None, 5: other_order}, 3),
    "both": ({3: lacking, 5: nan}, 0),
    "none": ({}, 0),
}


@pytest.mark.timeout(120)
def test_segments_go_on_from_what_fits(router: Any, tmp_path: Path) -> None:
    write_t2v(tmp_path / "model")
    card = find_model(str(tmp_path / "model"))
    request = VideoRequest(task=TextToVideo(prompt="a red circle"), size="32x32", frames=5, steps=STEPS, seed=1)
    spec = resolve(request, card, 0)
    local = LocalPipeline.load(card)
    conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
    store = SnapshotStore(str(tmp_path / "kept"))
    segment = local.denoiser.start(segment_of(spec, "s"), conditions)
    fingerprint = Fingerprint.of(weights_of(card), segment.spec, local.denoiser.scheduler_config)
    while not segment.sampler.done:
        local.denoiser.step([segment])
        state = state_of(segment)
        for name, (kept, _) in CASES.items():
            if state.step in kept:
                change = kept[state.step] or (lambda same: same)
                store.put(Snapshot(Owner(name, 0, 1), fingerprint, change(state)))

    engine = start_engine(card, router, EngineSettings(rank_resources={"CPU": 0.5}, snapshots=str(tmp_path / "kept")))
    engine.name()
    given = ray.put(conditions)
    ray.get(router.allow.remote(STEPS))
    for name in CASES:
        ray.get(router.add.remote(segment_of(spec, name), [given], Owner(name, 0, 2), 8, card.name))
    ray.get(router.until_ended.remote(len(CASES)))
    ledger, events = ray.get([router.ledger.remote(), router.events.remote()])
    engine.end()
    assert ledger.failed == {}
    first = {name: min(event.steps[name] for event in events if name in event.steps) for name in CASES}
    assert first == {name: start + 1 for name, (_, start) in CASES.items()}
    for name in CASES:
        torch.testing.assert_close(ledger.latents[name], segment.result(), rtol=0, atol=1e-5)
