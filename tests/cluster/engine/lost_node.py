"""Two engines on fake 4-GPU nodes, one of which is taken away: prints what became of their segments, as JSON.

Started by `tests.cluster.engine.test_lost_node`; it has a Ray cluster of its own.
"""

from __future__ import annotations

import json
import tempfile
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.cluster.expert_margins import clearest_runs
from tests.cluster.fake_router import Leader, start_engine, start_fake_router
from tests.cluster.own_cluster import NODE, until
from zoetrope.cluster.planning.gang_plan import Overrides, plan_gang
from zoetrope.cluster.planning.placement import KIND_LABEL, placements
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import segment_of
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

STEPS = 10
SNAPSHOT_STEPS = 2
LOST_AT = 5  # steps that all segments have behind them when the node goes
JOBS = 4
SEEDS = 24  # of which the jobs get those with the clearest choices of experts, for their company in a batch changes
TOKENS = 60  # of each, as the board counts them: two to an engine
PATIENCE = 180.0
SILENCE = 30.0  # after which the board gives an engine up: more than a busy machine keeps a sound one from reporting


def main() -> None:
    cluster = Cluster()
    head = {**NODE, "num_cpus": 4, "num_gpus": 0}
    home = cluster.add_node(**head).node_id
    nodes = [cluster.add_node(labels={KIND_LABEL: kind}, **NODE) for kind in ("H100", "H100", "A100")]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as kept:
            print(json.dumps(lose_a_node(cluster, home, {node.node_id: node for node in nodes}, kept)))
    finally:
        ray.shutdown()
        cluster.shutdown()


def lose_a_node(cluster: Cluster, home: str, nodes: dict[str, Any], kept: str) -> dict[str, Any]:
    card = find_model("nano")
    prompt = TextToVideo(prompt="a red circle moving right on a blue background")
    local = LocalPipeline.load(card)
    wanted = [VideoRequest(task=prompt, size="40x24", frames=9, steps=STEPS, seed=n) for n in range(SEEDS)]
    runs = {
        f"job-{n}": run
        for n, run in enumerate(clearest_runs(local, [resolve(request, card, 0) for request in wanted], JOBS))
    }
    specs = {name: run.spec for name, run in runs.items()}
    stays = NodeAffinitySchedulingStrategy(home, soft=False)
    router = start_fake_router(JOBS // 2 * TOKENS, SILENCE, scheduling_strategy=stays)
    first, there = _engine(card, router, kept)
    # The rest of its node is somebody else's, so that the second engine goes to another one.
    full = placement_group([{"GPU": 2}], bundle_label_selector=[{"ray.io/node-id": there}])
    assert full.wait(PATIENCE)
    second, elsewhere = _engine(card, router, kept)
    names = {first.name(): there, second.name(): elsewhere}
    for name, spec in specs.items():
        conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
        ray.get(router.add.remote(segment_of(spec, name), [ray.put(conditions)], Owner(name, 0, 1), TOKENS))
    ray.get(router.allow.remote(LOST_AT))
    ray.get(router.until_there.remote())
    before = {name: names[ray.get(router.engine_of.remote(name))] for name in specs}
    moving = [name for name, node in before.items() if node == there]
    # They are written in the background.
    until(lambda: all(_newest(name, kept) > LOST_AT - SNAPSHOT_STEPS for name in moving), PATIENCE)
    places = first.ranks()
    processes = [first.process(), *(place.process for place in places)]

    cluster.remove_node(nodes[there], allow_graceful=False)
    # They notice within a second or so that their node is gone, and until then the leader may report and take steps.
    until(lambda: not any(process.runs() for process in processes), PATIENCE)
    lost = ray.get(router.now.remote())
    ray.get(router.allow.remote(STEPS))
    ray.get(router.until_ended.remote(JOBS), timeout=2 * PATIENCE)
    ledger = ray.get(router.ledger.remote())
    later = [event for event in ray.get(router.events.remote()) if event.at > lost]
    return {
        "kinds": {node["NodeID"]: node["Labels"].get(KIND_LABEL) for node in ray.nodes()},
        "lost": there,
        "other": elsewhere,
        "ranks": [place.node for place in places],
        "before": before,
        "failed": ledger.failed,
        "redone": ledger.redone,
        "leads": {name: run.lead for name, run in runs.items()},
        "errors": {
            name: float((ledger.latents[name] - run.latents).norm() / run.latents.norm())
            for name, run in runs.items()
            if name in ledger.latents
        },
        "reported": sorted({names[event.engine] for event in later}),
        "epochs": sorted({event.epoch for event in later}),
    }


def _engine(card: Any, router: Any, kept: str) -> tuple[Leader, str]:
    """A gang of two where its plan puts it, and the node."""
    plan = plan_gang(card, 2, "h100", 40, 24, 2, overrides=Overrides(cfg_groups=1))
    (placement,) = placements(plan, ray.nodes())
    group = placement_group(**placement.options())
    settings = EngineSettings(
        ranks=plan.ranks,
        cfg_groups=plan.cfg_groups,
        rank_resources={"GPU": 1.0},
        snapshots=kept,
        snapshot_steps=SNAPSHOT_STEPS,
        hang_seconds=PATIENCE,  # nobody hangs here, and the machine may be busy
    )
    leader = start_engine(card, router, settings, group)
    (node,) = {place.node for place in leader.ranks()}
    return leader, node


def _newest(segment: str, kept: str) -> int:
    """The step of a segment's newest snapshot, 0 without one."""
    snapshot = SnapshotStore(kept).latest(Owner(segment, 0, 1))
    return 0 if snapshot is None else snapshot.step


if __name__ == "__main__":
    main()
