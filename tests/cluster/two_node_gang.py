"""A gang over two nodes of one NVLink domain, in groups that its leader makes: prints what became of it, as JSON.

Started by `tests.cluster.engine.test_two_nodes`; it has a Ray cluster of its own.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.cluster.expert_margins import clearest_runs
from tests.cluster.fake_router import start_fake_router
from tests.cluster.own_cluster import NODE, until
from zoetrope.cluster.engine.draining import drain_node
from zoetrope.cluster.engine.engine import Engine
from zoetrope.cluster.planning.groups import Groups
from zoetrope.cluster.planning.placement import DOMAIN_LABEL, seat
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import segment_of
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

STEPS, TAKEN = 4, 2
SEEDS = 12  # of which the one with the clearest choices of experts is taken, for a rank has half of the tokens
TOKENS = 60


def main() -> None:
    cluster = Cluster()
    cluster.add_node(**{**NODE, "num_cpus": 4, "num_gpus": 0})
    for domain in ("rack", "rack"):
        cluster.add_node(labels={DOMAIN_LABEL: domain}, **{**NODE, "num_gpus": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as kept:
            print(json.dumps({**killed(), **worked(), **drained(kept)}))
    finally:
        ray.shutdown()
        cluster.shutdown()


def killed() -> dict[str, Any]:
    """A leader that is detached, as Serve's replicas are, makes groups and is killed."""
    settings = EngineSettings(ranks=2, rank_resources={"GPU": 1.0})
    holder = ray.remote(Groups).options(num_cpus=0.01, lifetime="detached", name="leader")
    actor: Any = holder.remote(seat(settings, ray.nodes()).groups, 2)
    until(lambda: ray.available_resources().get("GPU", 0) == 0)
    ray.kill(actor)
    until(lambda: ray.available_resources().get("GPU", 0) == 2)
    return {"after a kill": _groups()}


def worked() -> dict[str, Any]:
    """An engine loses a rank, goes on in the same groups, and gives them back when it stops."""
    card = find_model("nano")
    prompt = TextToVideo(prompt="a red circle moving right on a blue background")
    wanted = [VideoRequest(task=prompt, size="40x24", frames=9, steps=STEPS, seed=n) for n in range(SEEDS)]
    local = LocalPipeline.load(card)
    (run,) = clearest_runs(local, [resolve(request, card, 0) for request in wanted], 1)
    spec, expected = run.spec, run.latents
    router = start_fake_router(TOKENS)
    settings = EngineSettings(ranks=2, rank_resources={"GPU": 1.0}, hang_seconds=60.0)
    place = seat(settings, ray.nodes())
    engine: Any = ray.remote(Engine).options(**place.options["ray_actor_options"], max_concurrency=4)
    leader = engine.remote(card, router, settings, place.groups)
    name = ray.get(leader.name.remote())
    before = ray.get(leader.ranks.remote())
    conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
    ray.get(router.add.remote(segment_of(spec, "s"), [ray.put(conditions)], Owner("s", 0, 1), TOKENS))
    ray.get(router.allow.remote(1))
    ray.get(router.until_there.remote())
    since = ray.get(router.now.remote())
    os.kill(before[1].process.pid, signal.SIGKILL)
    ray.get(router.allow.remote(STEPS))
    ray.get(router.until_state.remote("rebuilding", name, since))
    ray.get(router.until_ended.remote(1))
    ledger = ray.get(router.ledger.remote())
    after = ray.get(leader.ranks.remote())
    held = _groups()
    ray.get(leader.drain.remote())
    until(lambda: ray.available_resources().get("GPU", 0) == 2)
    return {
        "before": [rank.node for rank in before],
        "after": [rank.node for rank in after],
        "same": len({rank.process for rank in (*before, *after)}) < 4,
        "failed": ledger.failed,
        "error": float((ledger.latents["s"] - expected).norm() / expected.norm()),
        "held": held,
        "after draining": _groups(),
    }


def drained(kept: str) -> dict[str, Any]:
    """The node of a rank is drained, which is not the leader's: the engine hands over what it holds and ends."""
    card = find_model("nano")
    local = LocalPipeline.load(card)
    prompt = TextToVideo(prompt="a red circle moving right on a blue background")
    spec = resolve(VideoRequest(task=prompt, size="40x24", frames=9, steps=STEPS, seed=1), card, 0)
    router = start_fake_router(TOKENS)
    settings = EngineSettings(ranks=2, rank_resources={"GPU": 1.0}, hang_seconds=60.0, snapshots=kept)
    place = seat(settings, ray.nodes())
    home = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    engine: Any = ray.remote(Engine).options(num_cpus=0.01, scheduling_strategy=home, max_concurrency=4)
    leader = engine.remote(card, router, settings, place.groups)
    name = ray.get(leader.name.remote())
    conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
    ray.get(router.add.remote(segment_of(spec, "s"), [ray.put(conditions)], Owner("s", 0, 1), TOKENS))
    ray.get(router.allow.remote(TAKEN))
    ray.get(router.until_there.remote())
    ray.get(leader.check_health.remote())
    ranks = ray.get(leader.ranks.remote())
    drain_node(ray.get_runtime_context().gcs_address, ranks[1].node, time.time() + 600)
    ray.get(router.until_state.remote("draining", name, 0.0))
    until(lambda: not any(rank.process.runs() for rank in ranks))
    snapshot = SnapshotStore(kept).latest(Owner("s", 0, 1))
    health = ""
    try:
        ray.get(leader.check_health.remote())
    except RuntimeError as error:
        health = str(error)
    return {"snapshot": None if snapshot is None else snapshot.step, "health": health}


def _groups() -> int:
    """Groups that Ray has not removed."""
    return sum(group["state"] != "REMOVED" for group in placement_group_table().values())


if __name__ == "__main__":
    main()
