"""Who talks to whom, and why: the list that NetworkPolicies are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from urllib.parse import parse_qs, urlsplit

from zoetrope.serving.kubernetes.objects import Tree, mapping, sequence

RAY = ("ray-head", "ray-worker")
STORES = ("gateway", "sweeper", *RAY)  # who reads and writes artifacts
OURS = (*STORES, "migrate")  # who runs our code
INSIDE = (*OURS, "fetch-weights", "redis", "postgres", "s3")  # values of app.kubernetes.io/component
# Beyond the namespace: pods in namespaces of others, and addresses.
OUTSIDE = (
    *("dns", "monitoring", "operator", "pod-elsewhere", "pod-without-labels"),
    *("private-network", "internet", "cloud-metadata"),
)
GRPC, HTTP, MANAGEMENT, RAY_METRICS, OWN_METRICS, DASHBOARD = 50051, 8080, 9090, 8080, 9464, 8265
AUTOSCALER_METRICS, DASHBOARD_METRICS, GCS, POSTGRES, REDIS, DNS = 44217, 44227, 6379, 5432, 6379, 53
OTLP = (4317, 4318)
WEB = (80, 443)
ANY = ()  # every port


@dataclass(frozen=True)
class Flow:
    """A source may open connections to a target, at these TCP ports; none: at any.

    Attributes:
        optional: may be forbidden, as what a cluster does not have.
    """

    source: str
    target: str
    ports: tuple[int, ...]
    why: str
    optional: bool = False


def declared_flows(tree: Tree) -> list[Flow]:
    """Return the flows of a tree, by which components it has and where its stores are."""
    there = {pod.component for pod in tree.pods}
    database = "postgres" if "postgres" in there else "private-network"
    artifacts = "s3" if "s3" in there else "private-network"
    ports = store_ports(_stores(tree))
    found = [
        *_flows(INSIDE, ["dns"], (DNS,), "names"),
        *_flows(OUTSIDE, ["gateway"], (GRPC, HTTP), "clients, from wherever they are let in", optional=True),
        *_flows(("gateway", "sweeper"), ["internet"], WEB, "media that clients name, hooks and webhooks"),
        *_flows(["fetch-weights"], ["internet"], (443,), "weights from a hub"),
        *_flows(OURS, [database], (POSTGRES,), "the job database"),
        *_flows(STORES, [artifacts], ports, "artifacts and snapshots"),
        *_flows(STORES, ["internet"], ports, "artifacts of a cloud's store", optional=not _in_a_cloud(tree)),
        *_flows(RAY, RAY, ANY, "Ray, and the ranks of a gang"),
        *_flows(["operator"], ["ray-head"], (DASHBOARD,), "KubeRay deploys the Serve application"),
        *_flows(["monitoring"], ["gateway", "sweeper"], (MANAGEMENT,), "scrapes"),
        *_flows(["monitoring"], RAY, (RAY_METRICS, OWN_METRICS), "scrapes"),
        *_flows(["monitoring"], ["ray-head"], (AUTOSCALER_METRICS, DASHBOARD_METRICS), "scrapes"),
        *_flows(STORES, ["monitoring"], OTLP, "traces", optional=True),
        *_flows(["ray-head"], ["redis"], (REDIS,), "what the head must not forget"),
    ]
    return [flow for flow in found if {flow.source, flow.target} - set(OUTSIDE) <= there]


def _flows(
    sources: Iterable[str], targets: Iterable[str], ports: tuple[int, ...], why: str, *, optional: bool = False
) -> list[Flow]:
    return [Flow(source, target, ports, why, optional) for source in sources for target in targets]


def endpoint_of(url: str) -> str:
    """Return the endpoint that a store's URL names; "" for the cloud's own."""
    return next(iter(parse_qs(urlsplit(url).query).get("endpoint", ())), "")


def all_private(networks: Iterable[str]) -> bool:
    """Whether none of these networks (CIDR) is a public one."""
    return all(ip_network(network).is_private for network in networks)


def store_ports(urls: Iterable[str]) -> tuple[int, ...]:
    """Return the ports of stores, as their URLs say."""
    found = {443} if not (listed := list(urls)) else set[int]()
    for url in listed:
        parts = urlsplit(endpoint_of(url))
        found.add(parts.port or (80 if parts.scheme == "http" else 443))
    return tuple(sorted(found))


def _in_a_cloud(tree: Tree) -> bool:
    """Whether a bucket is a cloud's own, at addresses that no policy names."""
    peers = [
        str(mapping(peer.get("ipBlock")).get("cidr"))
        for policy in tree.of("NetworkPolicy")
        if policy.name == "artifacts"
        for rule in sequence(policy.spec.get("egress"))
        for peer in sequence(rule.get("to"))
        if peer.get("ipBlock")
    ]
    return any(not endpoint_of(url) for url in _stores(tree)) and all_private(peers)


def _stores(tree: Tree) -> list[str]:
    """The URLs of the buckets in the settings, that of artifacts first."""
    data = [mapping(found.data.get("data")) for found in tree.of("ConfigMap")]
    names = ("ZOETROPE_ARTIFACT_STORE", "ZOETROPE_SNAPSHOT_STORE")
    return [str(settings[name]) for name in names for settings in data if settings.get(name)]
