"""A leader that was stopped and goes on finds its segments with somebody else, and harms neither them nor snapshots."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cluster.messages import Owner
from cluster.settings import EngineSettings
from cluster.snapshots import SnapshotStore
from model.pipeline import NOTHING, LocalPipeline, condition_span
from model.presets import find_model
from model.resolve import resolve
from model.tasks import TextToVideo, VideoRequest, segment_of
from tests.cluster.hub import start_engine, start_hub
from tests.tiny import tiny_wan

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]
STEPS = 12
OWNER = Owner("s", 0, 1)


@pytest.fixture
def hub() -> Iterator[Any]:
    actor = start_hub(engine_timeout=2.0)
    yield actor
    ray.kill(actor)


def until_kept(store: SnapshotStore, step: int) -> None:
    """The newest snapshot is of that step: it is written beside the steps."""
    deadline = time.monotonic() + 20
    while (kept := store.latest(OWNER)) is None or kept.step != step:
        assert time.monotonic() < deadline, kept and kept.step
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_a_leader_that_was_stopped_drops_what_is_anothers(hub: Any, tmp_path: Path) -> None:
    tiny_wan(tmp_path / "model")
    card = find_model(str(tmp_path / "model"))
    request = VideoRequest(task=TextToVideo(prompt="a red circle"), size="32x32", frames=5, steps=STEPS, seed=1)
    spec = resolve(request, card, 0)
    local = LocalPipeline.load(card)
    expected = local.run(spec)[0]
    conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
    settings = EngineSettings(rank_resources={"CPU": 0.5}, snapshots=str(tmp_path / "kept"), snapshot_steps=1)
    store = SnapshotStore(settings.snapshots or "")
    stopped = start_engine(card, hub, settings)
    ray.get(hub.allow.remote(4))
    ray.get(hub.add.remote(segment_of(spec, "s"), [ray.put(conditions)], OWNER, 8))
    ray.get(hub.until_there.remote())
    assert ray.get(hub.engine_of.remote("s")) == stopped.name()
    heir = start_engine(card, hub, settings)
    names = stopped.name(), heir.name()
    leader = stopped.process().pid
    os.kill(leader, signal.SIGSTOP)
    try:
        ray.get(hub.allow.remote(8))
        ray.get(hub.until_there.remote())
        assert ray.get(hub.engine_of.remote("s")) == names[1]
        since = ray.get(hub.now.remote())
    finally:
        os.kill(leader, signal.SIGCONT)
    said = ray.get(hub.until_state.remote("ready", names[0], since))
    assert said.steps == {"s": 4}, "it has not heard of it"
    said = ray.get(hub.until_state.remote("ready", names[0], said.at))
    assert said.steps == {}
    until_kept(store, 8)
    ray.get(hub.allow.remote(STEPS))
    ray.get(hub.until_ended.remote(1))
    ledger, events = ray.get([hub.ledger.remote(), hub.events.remote()])
    assert ledger.failed == {} and ledger.redone["s"] <= 1
    torch.testing.assert_close(ledger.latents["s"], expected, rtol=0, atol=1e-5)
    until_kept(store, STEPS)
    assert max(e.steps.get("s", 0) for e in events if e.engine == names[0]) == 4
    for engine in (stopped, heir):
        engine.end()
