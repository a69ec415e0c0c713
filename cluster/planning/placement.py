"""Places the ranks of a gang: placement groups that follow its plan, refused at once if no node can take them.

Works on plain data, as returned by `ray.nodes()`, so that nothing here waits for a cluster. A gang in one NVLink domain
is one placement group, on one node if a node is large enough, else on the nodes of a domain. Two guidance groups, each
in a domain of its own, are two placement groups, because Ray packs a whole group into one domain.

Serve makes the group of a gang on one node. It supports neither domains nor two groups; those are made by the engine's
leader (`cluster.planning.groups`). `seat` decides between the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from zoetrope.cluster.protocol.settings import EngineSettings

if TYPE_CHECKING:  # the planner needs torch, which a supervisor and an engine's leader do without
    from zoetrope.cluster.planning.gang_plan import GangPlan

DOMAIN_LABEL = "ray.io/gpu-domain"  # nodes whose GPUs NVLink joins have the same value
KIND_LABEL = "ray.io/accelerator-type"
LEADER = {"CPU": 0.01}

GangPlace = Literal["node", "domain", "domains"]


class PlacementError(ValueError):
    """The cluster can never take the gang, however long one waits."""


@dataclass(frozen=True)
class Demand:
    """What a gang needs from a cluster.

    Attributes:
        rank: resources of each rank. domains: NVLink domains over which the ranks are divided evenly.
        gpu: the kind, as nodes have it under `KIND_LABEL`; None: any.
    """

    ranks: int
    rank: Mapping[str, float]
    domains: int = 1
    gpu: str | None = None

    @classmethod
    def of(cls, gang: GangPlan | EngineSettings, gpu: str | None = None) -> Demand:
        """Derive it from a plan, which names its kind of GPU, or from settings, whose kind is ``gpu``."""
        if isinstance(gang, EngineSettings):
            return cls(gang.ranks, gang.rank_resources, gpu=gpu.upper() if gpu is not None else None)
        rank = {"GPU": 1.0} if gang.is_gpu else {"CPU": 1.0}
        return cls(gang.ranks, rank, gang.domains, gang.gpu.upper() if gang.is_gpu else None)

    @property
    def is_gpu(self) -> bool:
        return self.rank.get("GPU", 0) > 0

    @property
    def domain_ranks(self) -> int:
        """Return how many ranks must share an NVLink domain."""
        return self.ranks // self.domains


@dataclass(frozen=True)
class Placement:
    """One placement group; the first of a gang starts with the leader's bundle.

    Attributes:
        strategy: among nodes; None if ``domain`` decides.
        domain: pack into nodes that share a value of `DOMAIN_LABEL`. labels: that every node must have.
    """

    bundles: tuple[Mapping[str, float], ...]
    strategy: str | None
    domain: bool = False
    labels: Mapping[str, str] | None = None

    def options(self) -> dict[str, Any]:
        """Return the arguments of `ray.util.placement_group`."""
        options: dict[str, Any] = {"bundles": [dict(bundle) for bundle in self.bundles]}
        if self.domain:
            options["topology_strategy"] = {DOMAIN_LABEL: "STRICT_PACK"}
        else:
            options["strategy"] = self.strategy
        if self.labels:
            options["bundle_label_selector"] = [dict(self.labels) for _ in self.bundles]
        return options

    def serve_options(self) -> dict[str, Any]:
        """Return the options of a Serve deployment whose replica gets this group.

        Raises:
            PlacementError: Serve 2.60 cannot pack by domain; the leader must make the group itself.
        """
        if self.domain:
            raise PlacementError("a Serve deployment cannot be packed by NVLink domain: the leader makes its own group")
        return {f"placement_group_{name}": value for name, value in self.options().items()}


@dataclass(frozen=True)
class Seat:
    """How an engine is deployed.

    Attributes:
        options: of its Serve deployment.
        groups: placement groups of its ranks that the leader makes itself; empty if its replica's group has them.
    """

    options: Mapping[str, Any]
    groups: tuple[Placement, ...] = ()


def seat(gang: GangPlan | EngineSettings, nodes: Sequence[Mapping[str, Any]], gpu: str | None = None) -> Seat:
    """Decide where an engine's replica and its ranks go.

    Guidance groups are split over two NVLink domains if the settings ask for two and no domain has room for both.

    Args:
        nodes: `ray.nodes()`. gpu: the kind that settings are for; None: any.

    Raises:
        PlacementError: see `check_feasible`.
    """
    demand = Demand.of(gang, gpu)
    if isinstance(gang, EngineSettings) and gang.cfg_groups == 2 and demand.is_gpu:
        try:
            check_feasible(demand, nodes)
        except PlacementError:
            parted = replace(demand, domains=2)
            if not _fits(parted, nodes):
                raise
            demand = parted
    return _seated(placements(demand, nodes))


def planned_seat(gang: EngineSettings, place: GangPlace, labels: Mapping[str, str] | None = None) -> Seat:
    """Decide it without the nodes, which may not have joined the cluster yet: Ray waits for those that fit.

    Args:
        place: of ranks with GPUs: one node, one NVLink domain, or one domain for each guidance group; ranks without
            GPUs may be anywhere. labels: that every node must have.

    Raises:
        PlacementError: there is one guidance group, but ``place`` asks for a domain for each.
    """
    if place == "domains" and gang.cfg_groups != 2:
        raise PlacementError(f"'domains' is for cfg-groups 2, it is {gang.cfg_groups}")
    demand = Demand.of(gang)
    if not demand.is_gpu:
        return _seated([Placement(tuple(bundles(demand)), "PACK", labels=labels)])
    if place == "node":
        return _seated([Placement(tuple(bundles(demand)), "STRICT_PACK", labels=labels)])
    parts = _parts(replace(demand, domains=2 if place == "domains" else 1))
    return _seated([Placement(part, None, domain=True, labels=labels) for part in parts])


def _seated(placements: Sequence[Placement]) -> Seat:
    first, *others = placements
    leader: dict[str, Any] = {"ray_actor_options": {"num_cpus": LEADER["CPU"]}}
    if not first.domain and not others:
        return Seat({**leader, **first.serve_options()})
    if first.labels:
        leader["ray_actor_options"]["label_selector"] = dict(first.labels)
    return Seat(leader, (replace(first, bundles=first.bundles[1:]), *others))


def _parts(demand: Demand) -> list[tuple[Mapping[str, float], ...]]:
    """Divide the bundles among the NVLink domains; the leader's is the first."""
    found, each = bundles(demand), demand.domain_ranks
    rest = (found[first : first + each] for first in range(each + 1, len(found), each))
    return [tuple(found[: each + 1]), *map(tuple, rest)]


def bundles(gang: GangPlan | Demand) -> list[dict[str, float]]:
    """Return the leader's resources, then each rank's."""
    demand = gang if isinstance(gang, Demand) else Demand.of(gang)
    return [dict(LEADER), *(dict(demand.rank) for _ in range(demand.ranks))]


def placements(gang: GangPlan | Demand, nodes: Sequence[Mapping[str, Any]]) -> list[Placement]:
    """Return the gang's placement groups: one for each NVLink domain that it uses, ranks in order.

    Args:
        nodes: `ray.nodes()`.

    Raises:
        PlacementError: see `check_feasible`.
    """
    demand = gang if isinstance(gang, Demand) else Demand.of(gang)
    check_feasible(demand, nodes)
    if not demand.is_gpu:
        return [Placement(tuple(bundles(demand)), "PACK")]
    usable = _usable(demand, nodes)
    by_domain = max(_room(node, demand) for node in usable) < demand.domain_ranks
    mixed = len(usable) < sum(1 for node in nodes if node["Alive"] and _count(node, "GPU"))
    labels = {KIND_LABEL: demand.gpu} if mixed and demand.gpu is not None else None
    strategy = None if by_domain else "STRICT_PACK"
    return [Placement(part, strategy, by_domain, labels) for part in _parts(demand)]


def check_feasible(gang: GangPlan | Demand, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Check that the existing nodes could take the gang if nothing else ran on them.

    Raises:
        PlacementError: says what was requested and the most that the cluster has.
    """
    demand = gang if isinstance(gang, Demand) else Demand.of(gang)
    alive = [node for node in nodes if node["Alive"]]
    if not demand.is_gpu:
        _check_cpus(demand, alive)
        return
    usable = _usable(demand, alive)
    kind = demand.gpu or "GPU" + ("s" if demand.ranks > 1 else "")
    if not usable:
        others = sorted({_labels(node)[KIND_LABEL] for node in alive if _count(node, "GPU")})
        have = f"only {', '.join(others)}" if others else "no GPUs"
        raise PlacementError(f"{demand.ranks} {kind} asked for, the cluster has {have}")
    domains = _domains(usable, demand)
    largest = max(domains.values())
    if largest < demand.domain_ranks:
        gpus = f"{demand.domain_ranks} GPU{'s' if demand.domain_ranks > 1 else ''}"
        beside = {name: amount for name, amount in demand.rank.items() if name != "GPU"}
        each = "".join(f", {amount:g} {name} with each" for name, amount in beside.items())
        raise PlacementError(f"{gpus} in one NVLink domain asked for{each}, the largest has {largest}")
    groups = sum(size // demand.domain_ranks for size in domains.values())
    if groups < demand.domains:
        raise PlacementError(
            f"{demand.domains} groups of {demand.domain_ranks} GPUs asked for, each in one NVLink domain; the cluster "
            f"has room for {groups} ({', '.join(f'{name}: {size}' for name, size in sorted(domains.items()))})"
        )


def sort_ranks(places: Sequence[tuple[Any, ...]], domains: Sequence[str] | None = None) -> list[int]:
    """Decide which bundle becomes which rank: ``order[rank]`` is an index into ``places``.

    The first place's node comes first, because the others are given its address. Ranks of a node are adjacent, in the
    order of their GPUs; so are nodes of an NVLink domain.

    Args:
        places: ``(node id, GPU numbers, ...)`` of each rank's bundle. domains: of each; None if unknown.
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


def _fits(demand: Demand, nodes: Sequence[Mapping[str, Any]]) -> bool:
    try:
        check_feasible(demand, nodes)
    except PlacementError:
        return False
    return True


def _check_cpus(demand: Demand, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Check that there are enough CPUs. Ranks without GPUs may be anywhere; one node also has the leader."""
    rooms = [(_room(node, demand, leader=False), _room(node, demand)) for node in nodes]
    room = sum(without for without, _ in rooms) - min((without - led for without, led in rooms), default=0)
    if room < demand.ranks:
        cpus, asked = sum(_count(node, "CPU") for node in nodes), demand.ranks * demand.rank.get("CPU", 0)
        raise PlacementError(
            f"{asked:g} CPUs asked for and {LEADER['CPU']:g} for the leader, the cluster has {cpus:g}, "
            f"room for {room} of {demand.ranks} ranks"
        )


def _usable(demand: Demand, nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Live nodes with GPUs, except those labelled as another kind."""
    kind = demand.gpu
    return [
        node
        for node in nodes
        if node["Alive"]
        and _count(node, "GPU")
        and (kind is None or _labels(node).get(KIND_LABEL, kind).upper() == kind)
    ]


def _domains(nodes: Iterable[Mapping[str, Any]], demand: Demand) -> dict[str, int]:
    """How many ranks each NVLink domain has room for: nodes with the same label, else each node by itself. If some
    nodes have the label, Ray ignores those without."""
    nodes = list(nodes)
    labelled = [node for node in nodes if DOMAIN_LABEL in _labels(node)]
    found: dict[str, int] = {}
    for node in labelled or nodes:
        name = _labels(node).get(DOMAIN_LABEL, str(node.get("NodeID", ""))[:8])
        found[name] = found.get(name, 0) + _room(node, demand)
    return found


def _room(node: Mapping[str, Any], demand: Demand, leader: bool = True) -> int:
    """How many ranks an empty node can take, with or without a leader."""
    taken = LEADER if leader else {}
    fits = [(_count(node, name) - taken.get(name, 0.0)) / amount for name, amount in demand.rank.items() if amount > 0]
    return max(0, math.floor(min(fits) + 1e-6)) if fits else demand.ranks


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = node.get("Labels") or {}
    return labels


def _count(node: Mapping[str, Any], resource: str) -> float:
    return float(node.get("Resources", {}).get(resource, 0.0))
