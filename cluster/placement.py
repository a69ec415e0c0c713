"""Where the ranks of a gang go: placement groups that obey its plan, told at once when no node can take them.

Works on plain data, as `ray.nodes()` gives it, so that nothing here waits for a cluster. A gang in one NVLink domain is
one placement group, on one node where a node is large enough, else on the nodes of a domain. Two guidance groups in a
domain each are two placement groups, for Ray packs all of one into one domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.plan import GangPlan

DOMAIN_LABEL = "ray.io/gpu-domain"  # nodes whose GPUs NVLink joins have the same value
KIND_LABEL = "ray.io/accelerator-type"
LEADER = {"CPU": 0.01}


class PlacementError(ValueError):
    """The cluster cannot take the gang, however long one waits."""


@dataclass(frozen=True)
class Placement:
    """One placement group; the first one of a gang begins with the leader's bundle.

    Attributes:
        strategy: among nodes; None where ``domain`` says what belongs together.
        domain: pack into nodes that share a value of `DOMAIN_LABEL`. labels: that every node must have.
    """

    bundles: tuple[Mapping[str, float], ...]
    strategy: str | None
    domain: bool = False
    labels: Mapping[str, str] | None = None

    def options(self) -> dict[str, Any]:
        """Arguments of `ray.util.placement_group`."""
        options: dict[str, Any] = {"bundles": [dict(bundle) for bundle in self.bundles]}
        if self.domain:
            options["topology_strategy"] = {DOMAIN_LABEL: "STRICT_PACK"}
        else:
            options["strategy"] = self.strategy
        if self.labels:
            options["bundle_label_selector"] = [dict(self.labels) for _ in self.bundles]
        return options

    def serve_options(self) -> dict[str, Any]:
        """Options of a Serve deployment whose replica gets this group.

        Raises:
            PlacementError: Serve 2.60 cannot pack by domain; the leader must make the group itself.
        """
        if self.domain:
            raise PlacementError("a Serve deployment cannot be packed by NVLink domain: the leader makes its own group")
        return {f"placement_group_{name}": value for name, value in self.options().items()}


def bundles(plan: GangPlan) -> list[dict[str, float]]:
    """The leader's resources, then each rank's."""
    rank = {"GPU": 1.0} if plan.is_gpu else {"CPU": 1.0}
    return [dict(LEADER), *(dict(rank) for _ in range(plan.ranks))]


def placements(plan: GangPlan, nodes: Sequence[Mapping[str, Any]]) -> list[Placement]:
    """The gang's placement groups: one for each NVLink domain that it takes up, ranks in their order.

    Args:
        nodes: `ray.nodes()`.

    Raises:
        PlacementError: see `check_feasible`.
    """
    check_feasible(plan, nodes)
    found = bundles(plan)
    if not plan.is_gpu:
        return [Placement(tuple(found), "PACK")]
    usable = _usable(plan, nodes)
    each = plan.domain_ranks
    by_domain = max(_count(node, "GPU") for node in usable) < each
    mixed = len(usable) < sum(1 for node in nodes if node["Alive"] and _count(node, "GPU"))
    labels = {KIND_LABEL: plan.gpu.upper()} if mixed else None
    parts = [found[: each + 1], *(found[first : first + each] for first in range(each + 1, len(found), each))]
    return [Placement(tuple(part), None if by_domain else "STRICT_PACK", by_domain, labels) for part in parts]


def check_feasible(plan: GangPlan, nodes: Sequence[Mapping[str, Any]]) -> None:
    """That the nodes that there are could take the gang if nothing else ran on them.

    Raises:
        PlacementError: says what was asked for and what the cluster has at most.
    """
    alive = [node for node in nodes if node["Alive"]]
    if not plan.is_gpu:
        cpus = sum(int(_count(node, "CPU")) for node in alive)
        if cpus < plan.ranks:
            raise PlacementError(f"{plan.ranks} CPUs asked for, the cluster has {cpus}")
        return
    usable = _usable(plan, alive)
    if not usable:
        others = sorted({_labels(node)[KIND_LABEL] for node in alive if _count(node, "GPU")})
        have = f"only {', '.join(others)}" if others else "no GPUs"
        raise PlacementError(f"{plan.ranks} {plan.gpu.upper()} asked for, the cluster has {have}")
    domains = _domains(usable)
    largest = max(domains.values())
    if largest < plan.domain_ranks:
        gpus = f"{plan.domain_ranks} GPU{'s' if plan.domain_ranks > 1 else ''}"
        raise PlacementError(f"{gpus} in one NVLink domain asked for, the largest has {largest}")
    groups = sum(size // plan.domain_ranks for size in domains.values())
    if groups < plan.domains:
        raise PlacementError(
            f"{plan.domains} groups of {plan.domain_ranks} GPUs asked for, each in one NVLink domain; the cluster has "
            f"room for {groups} ({', '.join(f'{name}: {size}' for name, size in sorted(domains.items()))})"
        )


def sort_ranks(places: Sequence[tuple[Any, ...]], domains: Sequence[str] | None = None) -> list[int]:
    """Which bundle becomes which rank: ``order[rank]`` is a number in ``places``.

    The first place's node comes first, for its address is the one that the others are told. Ranks of a node stand side
    by side, in the order of their GPUs; nodes of an NVLink domain stand side by side.

    Args:
        places: ``(node id, GPU numbers, ...)`` of each rank's bundle. domains: of each; None where nobody knows.
    """
    names = list(domains) if domains is not None else [""] * len(places)
    if len(names) != len(places):
        raise ValueError(f"domains has {len(names)} entries for {len(places)} places")
    if not places:
        return []
    first_node, first_domain = places[0][0], names[0]

    def key(number: int) -> tuple[Any, ...]:
        node, gpus = places[number][:2]
        domain = names[number]
        return domain != first_domain, domain, node != first_node, node, tuple(int(gpu) for gpu in gpus), number

    return sorted(range(len(places)), key=key)


def _usable(plan: GangPlan, nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Live nodes with GPUs, without those whose label says another kind."""
    kind = plan.gpu.upper()
    return [
        node
        for node in nodes
        if node["Alive"] and _count(node, "GPU") and _labels(node).get(KIND_LABEL, kind).upper() == kind
    ]


def _domains(nodes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """GPUs of each NVLink domain: nodes with the same label, else each node by itself. Where some nodes have the label
    Ray passes over those without."""
    nodes = list(nodes)
    labelled = [node for node in nodes if DOMAIN_LABEL in _labels(node)]
    found: dict[str, int] = {}
    for node in labelled or nodes:
        name = _labels(node).get(DOMAIN_LABEL, str(node.get("NodeID", ""))[:8])
        found[name] = found.get(name, 0) + int(_count(node, "GPU"))
    return found


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = node.get("Labels") or {}
    return labels


def _count(node: Mapping[str, Any], resource: str) -> float:
    return float(node.get("Resources", {}).get(resource, 0.0))
