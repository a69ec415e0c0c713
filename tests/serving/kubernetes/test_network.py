"""How network policies are read: ports by name and by range, peers in other namespaces, blocks of addresses."""

from __future__ import annotations

from typing import Any

import pytest

from zoetrope.serving.kubernetes.network import network_findings
from zoetrope.serving.kubernetes.objects import Json, Manifest, Tree

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
DNS: Json = {
    "podSelector": {},
    "policyTypes": ["Ingress", "Egress"],
    "egress": [
        {
            "to": [
                {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                }
            ],
            "ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}],
        }
    ],
}


def found(*specs: Json) -> list[str]:
    """What is found with a sweeper and these policies, but for flows that are missing."""
    labels = {"app.kubernetes.io/component": "sweeper"}
    ports = [{"name": "management", "containerPort": 9090}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "sweeper", "ports": ports}]}}
    objects = [{"kind": "Deployment", "metadata": {"name": "sweeper"}, "spec": {"template": template}}]
    objects += [
        {"kind": "NetworkPolicy", "metadata": {"name": f"p{number}"}, "spec": spec} for number, spec in enumerate(specs)
    ]
    findings = network_findings(Tree(tuple(map(Manifest, objects))))
    return [str(finding) for finding in findings if "none admits" not in finding.message]


def ingress(*rules: Any) -> Json:
    return {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": list(rules)}


@pytest.mark.parametrize(
    "port",
    [{"port": 9090}, {"port": "management"}, {"port": 9090, "protocol": "TCP"}, {"port": 9090, "endPort": 9090}],
    ids=str,
)
def test_a_port_in_each_of_its_forms(port: Json) -> None:
    assert found(DNS, ingress({"from": [MONITORING], "ports": [port]})) == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"from": [MONITORING]}, "monitoring -> sweeper at 53/TCP"),
        ({"from": [MONITORING], "ports": [{"port": 9089, "endPort": 40_000}]}, "any other port"),
        ({"from": [MONITORING], "ports": [{"port": 53, "protocol": "UDP"}]}, "monitoring -> sweeper at 53/UDP"),
        ({"ports": [{"port": 9090}]}, "internet -> sweeper at 9090/TCP"),
        ({"from": [{"namespaceSelector": {}}], "ports": [{"port": 9090}]}, "pod-elsewhere -> sweeper at 9090/TCP"),
        ({"from": [{"podSelector": {}}], "ports": [{"port": 9090}]}, "pod-without-labels -> sweeper at 9090/TCP"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 9090}]}, "private-network -> sweeper"),
    ],
    ids=["no port", "a range", "UDP", "anybody", "any namespace", "any neighbour", "a block"],
)
def test_more_than_was_declared(rule: Json, said: str) -> None:
    lines = found(DNS, ingress(rule))
    assert all(line.startswith("NetworkPolicy/p1: spec.ingress[0]: admits ") for line in lines)
    assert any(said in line for line in lines), lines


def test_what_a_block_excepts_and_selectors_exclude_is_not_admitted() -> None:
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    others = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["elsewhere"]}]}
    nobody = {"from": [{"ipBlock": block}, {"namespaceSelector": others}]}
    assert found(DNS, ingress(nobody)) == []


def test_pods_that_no_policy_selects_are_named() -> None:
    assert found(ingress()) == [
        "Deployment/sweeper: spec.template.metadata.labels: no NetworkPolicy with the type Egress selects these pods",
        *found(ingress())[1:],
    ]


@pytest.mark.parametrize(
    "block", [{"cidr": "everything"}, {"cidr": "10.0.0.1"}, {"cidr": "10.0.0.0/8", "except": ["x"]}]
)
def test_a_block_of_addresses_that_is_none(block: Json) -> None:
    (finding,) = found(DNS, ingress({"from": [{"ipBlock": block}]}))
    assert finding.startswith("NetworkPolicy/p1: spec.ingress[0].from[0].ipBlock.")
    assert finding.endswith("is no ADDRESS/BITS")


def test_addresses_of_the_sixth_version_are_addresses() -> None:
    (finding,) = found(DNS, ingress({"from": [{"ipBlock": {"cidr": "fd00::/8"}}], "ports": [{"port": 9090}]}))
    assert "admits private-network-ipv6 -> sweeper at 9090/TCP" in finding
