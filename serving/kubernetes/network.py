"""Evaluates NetworkPolicies, and compares what they admit with the declared flows: all of these, and no other.

Each of the tree's components, and some that stand for the world outside, tries every port that anything names and one
that nothing does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoetrope.serving.kubernetes.flows import DNS, INSIDE, Flow, declared_flows
from zoetrope.serving.kubernetes.objects import Fault, Json, Manifest, PodTemplate, Tree, mapping, selects, sequence

UNUSED = 31_999  # a port that nothing names
NAMESPACE = "kubernetes.io/metadata.name"
OWN = {NAMESPACE: "(the tree's own)"}

Port = tuple[str, int]  # protocol and number


@dataclass(frozen=True)
class Party:
    """One end of a connection: a pod, with its labels and those of its namespace, or an address."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    pod: PodTemplate | None = None  # of the tree
    like: str = ""  # another, whose flows it may have as well

    @property
    def flows_as(self) -> str:
        """The name by which flows are declared."""
        return self.like or self.name


WORLD = (
    Party("dns", {"k8s-app": "kube-dns"}, {NAMESPACE: "kube-system"}),
    Party("monitoring", {}, {NAMESPACE: "monitoring"}),
    Party("operator", {"app.kubernetes.io/component": "kuberay-operator"}, {NAMESPACE: "kuberay-system"}),
    Party("pod-elsewhere", {}, {NAMESPACE: "default"}),
    Party("pod-without-labels", {}, OWN),
    Party("private-network", address="10.1.2.3"),
    Party("internet", address="93.184.216.34"),
    Party("cloud-metadata", address="169.254.169.254"),
    Party("internet-ipv6", address="2001:4860:4860::8888", like="internet"),
    Party("private-network-ipv6", address="fd12:3456:789a::1", like="private-network"),
)


def network_findings(tree: Tree) -> Iterator[Fault]:
    """Yield flows that no policy admits, and what policies admit that nobody declared."""
    pods = {pod.component: Party(pod.component, pod.labels, OWN, pod=pod) for pod in tree.pods}
    for pod in tree.pods:
        if pod.component not in INSIDE:
            known = ", ".join(INSIDE)
            yield pod.finding(
                "metadata.labels.app.kubernetes.io/component",
                f"{pod.component!r} has no declared flows; known are {known} (serving/kubernetes/flows.py)",
            )
    policies = tree.of("NetworkPolicy")
    if unclear := list(_addresses(policies)):
        yield from unclear
        return
    flows = declared_flows(tree)
    ports = _ports(tree, policies, flows)
    parties = {party.name: party for party in (*pods.values(), *WORLD)}
    rules = _Rules(policies, parties)
    yield from _isolation(tree, policies)
    for source in parties.values():
        for target in parties.values():
            if source.pod is not None or target.pod is not None:
                yield from _compare(source, target, ports, flows, rules)


def _addresses(policies: list[Manifest]) -> Iterator[Fault]:
    """Blocks of addresses that are none: an API server refuses them, and no schema does."""
    for policy in policies:
        for way, side in (("ingress", "from"), ("egress", "to")):
            for number, rule in enumerate(sequence(policy.spec.get(way))):
                for place, peer in enumerate(sequence(rule.get(side))):
                    block = mapping(peer.get("ipBlock"))
                    said = [("cidr", block.get("cidr")), *(("except", each) for each in block.get("except", ()))]
                    for name, value in said if block else ():
                        if not _is_network(value):
                            at = f"spec.{way}[{number}].{side}[{place}].ipBlock.{name}"
                            yield policy.finding(at, f"{value!r} is no ADDRESS/BITS")


def _is_network(text: Any) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return "/" in text


def _isolation(tree: Tree, policies: list[Manifest]) -> Iterator[Fault]:
    """A pod that no policy selects may talk to everybody."""
    for pod in tree.pods:
        for way in ("Ingress", "Egress"):
            if not _selecting(pod, policies, way):
                yield pod.finding("metadata.labels", f"no NetworkPolicy with the type {way} selects these pods")


def _compare(source: Party, target: Party, ports: list[Port], flows: list[Flow], rules: _Rules) -> Iterator[Fault]:
    between = [flow for flow in flows if (flow.source, flow.target) == (source.flows_as, target.flows_as)]
    missing: dict[str, list[Port]] = {}
    extra: dict[tuple[str, str], list[Port]] = {}
    for port in ports:
        leaves = rules.admits(source, target, port, "egress")
        enters = rules.admits(target, source, port, "ingress")
        wanted = [flow for flow in between if _covers(flow, port)]
        if leaves and enters and not wanted:
            place = enters if target.pod is not None and source.pod is None else leaves
            extra.setdefault(place, []).append(port)
        must = not source.like and not target.like and any(not flow.optional for flow in wanted)
        if must and not (leaves and enters):
            way = "egress" if not leaves else "ingress"
            missing.setdefault(way, []).append(port)
    for (policy, rule), found in extra.items():
        message = f"admits {source.name} -> {target.name} at {_shown(found)}, which is no declared flow"
        yield Fault(policy, rule, message)
    for way, found in missing.items():
        pod = (source if way == "egress" else target).pod
        assert pod is not None, "what is outside has no policies"
        why = next(flow.why for flow in between if any(_covers(flow, port) for port in found))
        yield pod.owner.finding(
            f"(NetworkPolicies of {pod.component}) spec.{way}",
            f"none admits {source.name} -> {target.name} at {_shown(found)} ({why})",
        )


def _covers(flow: Flow, port: Port) -> bool:
    protocol, number = port
    if number == DNS and flow.ports == (DNS,):
        return True  # over UDP and TCP
    return protocol == "TCP" and (not flow.ports or number in flow.ports)


class _Rules:
    """What a tree's policies admit, with each rule's peers looked up once."""

    def __init__(self, policies: list[Manifest], parties: Mapping[str, Party]) -> None:
        self._admitted: dict[tuple[str, str], list[tuple[tuple[str, str], frozenset[str], Json]] | None] = {}
        for party in parties.values():
            for way in ("ingress", "egress"):
                selecting = _selecting(party.pod, policies, way.capitalize()) if party.pod is not None else []
                found = [
                    ((str(policy), f"spec.{way}[{number}]"), _peers(rule, way, parties), rule)
                    for policy in selecting
                    for number, rule in enumerate(sequence(policy.spec.get(way)))
                ]
                self._admitted[party.name, way] = found if selecting else None

    def admits(self, subject: Party, other: Party, port: Port, way: str) -> tuple[str, str] | None:
        """Return the policy and the field of the rule by which a party may send to (``egress``) or hear from
        (``ingress``) another; None: it may not. Who has no policies may do all."""
        rules = self._admitted[subject.name, way]
        if rules is None:
            return str(subject.pod.owner if subject.pod is not None else subject.name), "metadata.labels"
        receiver = other if way == "egress" else subject
        return next(
            (place for place, peers, rule in rules if other.name in peers and _open(rule, port, receiver)), None
        )


def _peers(rule: Mapping[str, Any], way: str, parties: Mapping[str, Party]) -> frozenset[str]:
    peers = sequence(rule.get("to" if way == "egress" else "from"))
    return frozenset(name for name, party in parties.items() if not peers or any(_is(peer, party) for peer in peers))


def _selecting(pod: PodTemplate, policies: list[Manifest], way: str) -> list[Manifest]:
    def types(policy: Manifest) -> list[Any]:
        default = ["Ingress", "Egress"] if "egress" in policy.spec else ["Ingress"]
        return sequence(policy.spec.get("policyTypes")) or default

    return [
        policy
        for policy in policies
        if way in types(policy) and selects(mapping(policy.spec.get("podSelector")), pod.labels)
    ]


def _is(peer: Mapping[str, Any], party: Party) -> bool:
    """Tell whether a peer of a rule means a party. Blocks of addresses mean no pods."""
    if "ipBlock" in peer:
        if not party.address:
            return False
        block, address = mapping(peer["ipBlock"]), ipaddress.ip_address(party.address)
        inside = address in ipaddress.ip_network(block.get("cidr", "0.0.0.0/32"), strict=False)
        return inside and not any(
            address in ipaddress.ip_network(each, strict=False) for each in block.get("except", ())
        )
    if party.address:
        return False
    namespaces = peer.get("namespaceSelector")
    near = party.namespace == OWN if namespaces is None else selects(namespaces, party.namespace)
    return near and selects(mapping(peer.get("podSelector")), party.labels)


def _open(rule: Mapping[str, Any], port: Port, receiver: Party) -> bool:
    ports = sequence(rule.get("ports"))
    if not ports:
        return True
    protocol, number = port
    for each in ports:
        first = each.get("port")
        if isinstance(first, str):
            first = _named(receiver, first)
        last = each.get("endPort", first)
        if each.get("protocol", "TCP") == protocol and (first is None or first <= number <= last):
            return True
    return False


def _named(receiver: Party, name: str) -> int:
    containers = receiver.pod.containers if receiver.pod is not None else []
    ports = [port for _, container in containers for port in sequence(container.get("ports"))]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == name), 0)


def _ports(tree: Tree, policies: list[Manifest], flows: list[Flow]) -> list[Port]:
    """Every port that anything names, and one that nothing does."""
    found: set[Port] = {("TCP", UNUSED), ("UDP", UNUSED), ("UDP", DNS)}
    found |= {("TCP", number) for flow in flows for number in flow.ports}
    for pod in tree.pods:
        for _, container in pod.containers:
            found |= {("TCP", int(port["containerPort"])) for port in sequence(container.get("ports"))}
    for policy in policies:
        for way in ("ingress", "egress"):
            for rule in sequence(policy.spec.get(way)):
                named = (port for port in sequence(mapping(rule).get("ports")) if isinstance(port.get("port"), int))
                found |= {(port.get("protocol", "TCP"), port["port"]) for port in named}
    return sorted(found)


def _shown(ports: list[Port]) -> str:
    named = [f"{number}/{protocol}" for protocol, number in ports if number != UNUSED]
    return ", ".join(named + ["any other port"] * (len(named) < len(ports)))
