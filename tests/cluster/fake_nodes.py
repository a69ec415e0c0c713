"""A Ray cluster of fake 4-GPU nodes, in a process of its own: prints where gangs were placed, as JSON.

Nodes: two in the NVLink domain ``a``, one in ``b``. Ray allows one cluster a process;
    `tests.cluster.planning.test_placement`
starts this one with the environment that it needs.
"""

from __future__ import annotations

import json
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tests.cluster.own_cluster import NODE
from zoetrope.cluster.planning.gang_plan import GangPlan, Overrides, plan_gang
from zoetrope.cluster.planning.placement import DOMAIN_LABEL, PlacementError, placements, sort_ranks
from zoetrope.model.families import PRESETS

SECONDS = 60


class Where:
    def place(self) -> tuple[str, list[int]]:
        return ray.get_runtime_context().get_node_id(), [int(gpu) for gpu in ray.get_gpu_ids()]


def main() -> None:
    cluster = Cluster()
    for domain in ("a", "a", "b"):  # the first one is the head
        cluster.add_node(labels={DOMAIN_LABEL: domain}, **NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        print(json.dumps(look()))
    finally:
        ray.shutdown()
        cluster.shutdown()


def look() -> dict[str, Any]:
    four, eight = (_plan(n, nvlink_domain=8) for n in (4, 8))
    pair = _plan(8, nvlink_domain=4, cfg_groups=2)
    found: dict[str, Any] = {
        "node": _placed(four)[0],
        "domain": _placed(eight)[0],
        "pair": _placed(pair)[0],
        "beside": _placed(eight, four),
        "refused": _refusal(_plan(10, nvlink_domain=16, model="wan2.1-t2v-14b")),
    }
    found["order"] = _order(_plan(2, nvlink_domain=8))
    return found


def _plan(gpus: int, *, nvlink_domain: int, cfg_groups: int = 1, model: str = "wan2.7-27b") -> GangPlan:
    overrides = Overrides(cfg_groups=cfg_groups)
    return plan_gang(PRESETS[model], gpus, "h100", 832, 480, 5, nvlink_domain=nvlink_domain, overrides=overrides)


def _placed(*plans: GangPlan) -> list[list[list[tuple[str, str]]]]:
    """(node, domain) of every bundle of every group of every gang, all placed at the same time."""
    domains = {node["NodeID"]: node["Labels"].get(DOMAIN_LABEL, "") for node in ray.nodes()}
    groups, found = [], []
    for plan in plans:
        mine = [placement_group(**placement.options()) for placement in placements(plan, ray.nodes())]
        groups += mine
        assert all(group.wait(SECONDS) for group in mine)
        tables = [placement_group_table(group)["bundles_to_node_id"] for group in mine]
        found.append([[(node, domains[node]) for _, node in sorted(table.items())] for table in tables])
    for group in groups:
        remove_placement_group(group)
    return found


def _refusal(plan: GangPlan) -> str:
    try:
        placements(plan, ray.nodes())
    except PlacementError as error:
        return str(error)
    return ""


def _order(plan: GangPlan) -> dict[str, Any]:
    """Ranks as actors in the group, as a gang starts them."""
    (placement,) = placements(plan, ray.nodes())
    group = placement_group(**placement.options())
    where: Any = ray.remote(Where)
    bundles = [PlacementGroupSchedulingStrategy(group, i + 1) for i in range(plan.ranks)]
    actors = [where.options(num_cpus=0, num_gpus=1, scheduling_strategy=bundle).remote() for bundle in bundles]
    places = ray.get([actor.place.remote() for actor in actors], timeout=SECONDS)
    remove_placement_group(group)
    return {"places": places, "order": sort_ranks(places)}


if __name__ == "__main__":
    main()
