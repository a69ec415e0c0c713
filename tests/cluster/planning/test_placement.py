"""Gangs are placed as planned: in one node or one NVLink domain, or not at all, and then it is said at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ray import serve

from tests.cluster.own_cluster import run_in_own_cluster
from zoetrope.cluster.engine.engine import EngineReplica
from zoetrope.cluster.planning.gang_plan import GangPlan, Overrides, plan_gang
from zoetrope.cluster.planning.placement import (
    DOMAIN_LABEL,
    KIND_LABEL,
    PlacementError,
    bundles,
    check_feasible,
    placements,
    planned_seat,
    seat,
    sort_ranks,
)
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS


def plan(gpus: int, model: str = "wan2.7-27b", nvlink_domain: int = 8, cfg_groups: int = 1) -> GangPlan:
    overrides = Overrides(cfg_groups=cfg_groups)
    return plan_gang(PRESETS[model], gpus, "h100", 832, 480, 5, nvlink_domain=nvlink_domain, overrides=overrides)


def node(name: str, gpus: int = 0, cpus: int = 4, alive: bool = True, **labels: str) -> dict[str, Any]:
    keys = {"domain": DOMAIN_LABEL, "kind": KIND_LABEL}
    resources = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})
    return {
        "NodeID": name,
        "Alive": alive,
        "Resources": resources,
        "Labels": {keys[label]: value for label, value in labels.items()},
    }


def test_bundles_are_a_small_one_for_the_leader_and_a_gpu_for_each_rank() -> None:
    assert bundles(plan(4)) == [{"CPU": 0.01}, *[{"GPU": 1.0}] * 4]
    nano = plan_gang(find_model("nano"), 2, "cpu", 40, 24, 2)
    assert bundles(nano) == [{"CPU": 0.01}, {"CPU": 1.0}, {"CPU": 1.0}]
    (placement,) = placements(nano, [node("x", cpus=1), node("y", cpus=2)])
    assert placement.options() == {"bundles": bundles(nano), "strategy": "PACK"}


GPU = {"CPU": 1.0, "GPU": 1.0}
NODES = {"ray.io/node-group": "h100"}


def test_a_gang_is_seated_before_its_nodes_are_there() -> None:
    """The settings alone say where it goes; Ray waits for nodes with these labels."""
    gang = EngineSettings(ranks=4, rank_resources=GPU)
    on_a_node = planned_seat(gang, "node", NODES)
    assert on_a_node.groups == ()
    assert on_a_node.options == {
        "ray_actor_options": {"num_cpus": 0.01},
        "placement_group_bundles": [{"CPU": 0.01}, *[GPU] * 4],
        "placement_group_strategy": "STRICT_PACK",
        "placement_group_bundle_label_selector": [NODES] * 5,
    }
    in_a_domain = planned_seat(gang, "domain", NODES)
    assert in_a_domain.options == {"ray_actor_options": {"num_cpus": 0.01, "label_selector": NODES}}
    assert [(g.domain, len(g.bundles), g.labels) for g in in_a_domain.groups] == [(True, 4, NODES)]
    in_two = planned_seat(replace(gang, cfg_groups=2), "domains")
    assert [(g.domain, len(g.bundles), g.labels) for g in in_two.groups] == [(True, 2, None)] * 2
    with pytest.raises(PlacementError, match="'domains' is for cfg-groups 2, it is 1"):
        planned_seat(gang, "domains")


def test_ranks_without_gpus_are_seated_anywhere() -> None:
    found = planned_seat(EngineSettings(ranks=2), "node")
    assert found.options["placement_group_strategy"] == "PACK"
    assert found.options["placement_group_bundles"] == [{"CPU": 0.01}, {"CPU": 1.0}, {"CPU": 1.0}]


def test_a_gang_goes_to_one_node_where_one_is_large_enough_else_into_one_domain() -> None:
    small = [node("x", 4, domain="a"), node("y", 4, domain="a")]
    (placement,) = placements(plan(4), small)
    assert placement.options()["strategy"] == "STRICT_PACK"
    assert set(placement.serve_options()) == {"placement_group_bundles", "placement_group_strategy"}
    (placement,) = placements(plan(8), small)
    assert placement.options() == {"bundles": bundles(plan(8)), "topology_strategy": {DOMAIN_LABEL: "STRICT_PACK"}}
    with pytest.raises(PlacementError, match="the leader makes its own group"):
        placement.serve_options()


def test_guidance_groups_in_two_domains_are_two_placement_groups() -> None:
    pair = plan(16, cfg_groups=2)
    first, second = placements(pair, [node("x", 8), node("y", 8)])
    assert first.options() == {"bundles": [{"CPU": 0.01}, *[{"GPU": 1.0}] * 8], "strategy": "STRICT_PACK"}
    assert second.options() == {"bundles": [{"GPU": 1.0}] * 8, "strategy": "STRICT_PACK"}


def test_other_kinds_of_gpus_are_kept_out() -> None:
    nodes = [node("x", 8, kind="A100"), node("y", 4, kind="H100")]
    (placement,) = placements(plan(4), nodes)
    assert placement.options()["bundle_label_selector"] == [{KIND_LABEL: "H100"}] * 5
    (placement,) = placements(plan(4), nodes[1:])
    assert "bundle_label_selector" not in placement.options()


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("x", 4), node("y", 4)], "8 GPUs in one NVLink domain asked for, the largest has 4"),
        ([node("x", 8, alive=False), node("y", 4)], "8 GPUs in one NVLink domain asked for, the largest has 4"),
        ([node("x", 4, domain="a"), node("y", 4, domain="b")], "8 GPUs in one NVLink domain asked for, the largest"),
        # Ray passes over nodes without the label once some have it.
        ([node("x", 4, domain="a"), node("y", 8)], "8 GPUs in one NVLink domain asked for, the largest has 4"),
        ([node("x", 8, kind="A100")], "8 H100 asked for, the cluster has only A100"),
        ([node("x")], "8 H100 asked for, the cluster has no GPUs"),
        ([], "8 H100 asked for, the cluster has no GPUs"),
    ],
)
def test_what_no_node_can_take_is_refused_with_the_reason(nodes: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(PlacementError, match=reason):
        check_feasible(plan(8), nodes)
    with pytest.raises(PlacementError, match=reason):
        placements(plan(8), nodes)


def test_two_groups_need_room_for_two_and_ranks_without_gpus_need_cpus() -> None:
    with pytest.raises(PlacementError, match=r"2 groups of 8 GPUs asked for, .* room for 1 \(x: 8, y: 4\)"):
        check_feasible(plan(16, cfg_groups=2), [node("x", 8), node("y", 4)])
    nano = plan_gang(find_model("nano"), 2, "cpu", 40, 24, 2)
    with pytest.raises(PlacementError, match=r"2 CPUs asked for and 0\.01 for the leader, the cluster has 1, room"):
        check_feasible(nano, [node("x", cpus=1)])
    with pytest.raises(PlacementError, match="the cluster has 2, room for 1 of 2 ranks"):
        check_feasible(nano, [node("x", cpus=1), node("y", cpus=1)])  # one of them has the leader as well
    with pytest.raises(PlacementError, match="the cluster has 0"):
        check_feasible(nano, [])


def test_ranks_that_need_cpus_beside_their_gpus_are_not_promised_a_node_without_them() -> None:
    settings = EngineSettings(ranks=4, rank_resources={"CPU": 1.0, "GPU": 1.0})
    with pytest.raises(PlacementError, match=r"4 GPUs in one NVLink domain .*, 1 CPU with each, the largest has 3"):
        seat(settings, [node("x", 4, cpus=4)])
    assert not seat(settings, [node("x", 4, cpus=5)]).groups


def test_a_gang_on_one_node_is_seated_by_serve() -> None:
    settings = EngineSettings(ranks=2, rank_resources={"CPU": 1.0, "GPU": 1.0})
    nodes = [node("x", 4, kind="A100"), node("y", 4, kind="H100")]
    found = seat(settings, nodes, "h100")
    assert found.groups == ()
    assert found.options == {
        "ray_actor_options": {"num_cpus": 0.01},
        "placement_group_bundles": [{"CPU": 0.01}, *[{"CPU": 1.0, "GPU": 1.0}] * 2],
        "placement_group_strategy": "STRICT_PACK",
        "placement_group_bundle_label_selector": [{KIND_LABEL: "H100"}] * 3,
    }
    assert "placement_group_bundle_label_selector" not in seat(settings, nodes).options, "any kind will do"
    assert seat(EngineSettings(), [node("x")]).options["placement_group_strategy"] == "PACK"
    for options in (found.options, seat(EngineSettings(), [node("x")]).options):
        assert serve.deployment(**options)(EngineReplica).name == "EngineReplica"  # Serve checks what it is given


def test_what_serve_has_no_option_for_the_leader_makes_itself() -> None:
    settings = EngineSettings(ranks=8, cfg_groups=2, rank_resources={"GPU": 1.0})
    rack = [node("x", 4, domain="a"), node("y", 4, domain="a")]
    found = seat(settings, rack)
    assert found.options == {"ray_actor_options": {"num_cpus": 0.01}}
    (group,) = found.groups
    assert group.options() == {"bundles": [{"GPU": 1.0}] * 8, "topology_strategy": {DOMAIN_LABEL: "STRICT_PACK"}}
    apart = seat(settings, [node("x", 4), node("y", 4)])
    half = {"bundles": [{"GPU": 1.0}] * 4, "strategy": "STRICT_PACK"}
    assert [group.options() for group in apart.groups] == [half, half]
    assert seat(settings, [node("x", 8), node("y", 4)]).groups == (), "rather on one node"
    for refused in (settings, replace(settings, cfg_groups=1)):
        with pytest.raises(PlacementError, match="8 GPUs in one NVLink domain asked for, the largest has 4"):
            seat(refused, [node("x", 4), node("y", 2)])
    (first, second) = seat(plan(16, cfg_groups=2), [node("x", 8), node("y", 8)]).groups
    assert first.bundles == second.bundles == ({"GPU": 1.0},) * 8


def test_ranks_of_a_node_stand_side_by_side_and_the_first_node_comes_first() -> None:
    places = [("n", (3,)), ("a", (0,)), ("n", (1,)), ("z", (0,)), ("a", (10,)), ("a", (2,))]
    assert [places[i] for i in sort_ranks(places)] == [
        ("n", (1,)), ("n", (3,)), ("a", (0,)), ("a", (2,)), ("a", (10,)), ("z", (0,)),
    ]  # fmt: skip
    assert sort_ranks([("n", ()), ("n", ()), ("m", ())]) == [0, 1, 2]
    assert sort_ranks([("n", ["1"], "more"), ("n", ["0"], "more")]) == [1, 0]
    assert sort_ranks([]) == []


def test_nodes_of_a_domain_stand_side_by_side() -> None:
    places = [("m", (0,)), ("a", (0,)), ("z", (0,)), ("b", (0,))]
    order = sort_ranks(places, ["two", "one", "two", "one"])
    assert [places[i][0] for i in order] == ["m", "z", "a", "b"]
    with pytest.raises(ValueError, match="domains has 1 entries for 4 places"):
        sort_ranks(places, ["two"])


@pytest.fixture(scope="module")
def placed() -> dict[str, Any]:
    """What became of gangs on fake nodes of 4 GPUs: two in domain ``a``, one in ``b``."""
    return run_in_own_cluster("tests.cluster.fake_nodes")


@pytest.mark.timeout(1300)  # whichever of these tests comes first starts three nodes
def test_ray_puts_a_gang_of_four_on_one_node(placed: dict[str, Any]) -> None:
    (group,) = placed["node"]
    assert len(group) == 5
    assert len({node for node, _ in group}) == 1


@pytest.mark.timeout(1300)
def test_ray_puts_a_gang_of_eight_on_the_two_nodes_of_one_domain(placed: dict[str, Any]) -> None:
    (group,) = placed["domain"]
    ranks = group[1:]
    assert {domain for _, domain in group} == {"a"}
    assert sorted(sum(node == other for other, _ in ranks) for node in {node for node, _ in ranks}) == [4, 4]


@pytest.mark.timeout(1300)
def test_ray_puts_guidance_groups_on_a_node_each(placed: dict[str, Any]) -> None:
    first, second = placed["pair"]
    assert (len(first), len(second)) == (5, 4)
    nodes = [{node for node, _ in group} for group in (first, second)]
    assert [len(names) for names in nodes] == [1, 1]
    assert nodes[0] != nodes[1]


@pytest.mark.timeout(1300)
def test_ray_finds_room_for_another_gang_beside_one(placed: dict[str, Any]) -> None:
    (eight,), (four,) = placed["beside"]
    assert {domain for _, domain in eight} == {"a"}
    assert {domain for _, domain in four} == {"b"}


@pytest.mark.timeout(1300)
def test_a_plan_for_a_larger_domain_than_there_is_never_reaches_ray(placed: dict[str, Any]) -> None:
    assert placed["refused"] == "10 GPUs in one NVLink domain asked for, the largest has 8"


@pytest.mark.timeout(1300)
def test_actors_in_the_group_are_sorted_by_their_gpus(placed: dict[str, Any]) -> None:
    places, order = placed["order"]["places"], placed["order"]["order"]
    assert len({node for node, _ in places}) == 1
    gpus = [places[i][1] for i in order]
    assert gpus == sorted(gpus)
    assert len({tuple(each) for each in gpus}) == 2
