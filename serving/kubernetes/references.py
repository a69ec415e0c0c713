"""Checks that everything that an object names is there: in the tree, or among the Secrets that are made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoetrope.serving.kubernetes.objects import Fault, Json, Manifest, PodTemplate, Tree, mapping, sequence

SECRETS = "zoetrope/secrets"  # annotation of the namespace: a line for each Secret that is made by hand, with its keys


def reference_findings(tree: Tree) -> Iterator[Fault]:
    """Yield what an object names and is not there."""
    known = _Known(tree)
    for pod in tree.pods:
        yield from _of_pod(pod, known)
    for service in tree.of("Service"):
        yield from _of_service(service, tree)
    for scaler in tree.of("HorizontalPodAutoscaler", "ScaledObject"):
        yield from _of_scaler(scaler, tree)
    for manifest in tree.of("Deployment", "StatefulSet"):
        yield from _own_selector(manifest, tree)
    for monitor in tree.of("PodMonitor"):
        yield from _of_monitor(monitor, tree)
    for service in tree.of("RayService"):
        yield from _of_ray_service(service, known)


class _Known:
    """What can be named: keys of ConfigMaps and Secrets, and other objects."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.keys: dict[tuple[str, str], set[str]] = {}
        for found in tree.of("ConfigMap", "Secret"):
            fields = ("data", "binaryData", "stringData")
            self.keys[found.kind, found.name] = {key for field in fields for key in mapping(found.data.get(field))}
        for namespace in tree.of("Namespace"):
            for line in str(namespace.annotations.get(SECRETS, "")).splitlines():
                name, _, keys = line.partition(":")
                self.keys.setdefault(("Secret", name.strip()), set()).update(keys.split())

    def problem(self, kind: str, reference: Any, key: str = "") -> str:
        """Say what is not there; "" if all is, or may be absent."""
        reference = mapping(reference)
        name = str(reference.get("name", reference.get("secretName", "")))
        if reference.get("optional"):
            return ""
        if (kind, name) not in self.keys:
            where = f", nor in the annotation {SECRETS} of the namespace" if kind == "Secret" else ""
            return f"the {kind} {name!r} is not in the tree{where}"
        if key and key not in self.keys[kind, name]:
            return (
                f"the {kind} {name!r} has no key {key!r}; it has {', '.join(sorted(self.keys[kind, name])) or 'none'}"
            )
        return ""

    def missing(self, kind: str, name: Any) -> str:
        return "" if self.tree.find(kind, str(name)) else f"the {kind} {name!r} is not in the tree"


def _of_pod(pod: PodTemplate, known: _Known) -> Iterator[Fault]:
    for kind, field in (("ServiceAccount", "serviceAccountName"), ("PriorityClass", "priorityClassName")):
        if field not in pod.spec:
            yield pod.finding(f"spec.{field}", "is missing")
        elif problem := known.missing(kind, pod.spec[field]):
            yield pod.finding(f"spec.{field}", problem)
    volumes = {str(volume.get("name")) for _, volume in pod.volumes}
    claims = [
        mapping(claim.get("metadata")).get("name") for claim in sequence(pod.owner.spec.get("volumeClaimTemplates"))
    ]
    for field, volume in pod.volumes:
        yield from _of_volume(pod.owner, field, volume, known)
    mounted = set(map(str, claims))
    for field, container in pod.all_containers:
        yield from _of_environment(pod.owner, field, container, known)
        paths = set()
        for mount in sequence(container.get("volumeMounts")):
            name, path = str(mount.get("name")), mount.get("mountPath")
            mounted.add(name)
            if name not in volumes | set(map(str, claims)):
                yield pod.owner.finding(f"{field}.volumeMounts[{name}]", f"there is no volume {name!r}")
            if path in paths:
                yield pod.owner.finding(f"{field}.volumeMounts[{name}].mountPath", f"{path} is mounted twice")
            paths.add(path)
    for field, volume in pod.volumes:
        if volume.get("name") not in mounted:
            yield pod.owner.finding(field, "is mounted by no container")


def _of_volume(owner: Manifest, field: str, volume: Json, known: _Known) -> Iterator[Fault]:
    sources = [volume, *(mapping(source) for source in sequence(mapping(volume.get("projected")).get("sources")))]
    for source in sources:
        for name, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if name in source:
                items = [str(mapping(item).get("key")) for item in sequence(mapping(source[name]).get("items"))]
                for key in items or [""]:
                    if problem := known.problem(kind, source[name], key):
                        yield owner.finding(f"{field}.{name}", problem)
    claim = mapping(volume.get("persistentVolumeClaim")).get("claimName")
    if claim is not None and (problem := known.missing("PersistentVolumeClaim", claim)):
        yield owner.finding(f"{field}.persistentVolumeClaim.claimName", problem)


def _of_environment(owner: Manifest, field: str, container: Json, known: _Known) -> Iterator[Fault]:
    for number, source in enumerate(sequence(container.get("envFrom"))):
        for name, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if name in source and (problem := known.problem(kind, source[name])):
                yield owner.finding(f"{field}.envFrom[{number}].{name}", problem)
    names = set()
    for variable in sequence(container.get("env")):
        name = str(variable.get("name"))
        if name in names:
            yield owner.finding(f"{field}.env[{name}]", "is there twice")
        names.add(name)
        source = mapping(variable.get("valueFrom"))
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if key in source:
                reference = mapping(source[key])
                if problem := known.problem(kind, reference, str(reference.get("key", ""))):
                    yield owner.finding(f"{field}.env[{name}].valueFrom.{key}", problem)


def _own_selector(manifest: Manifest, tree: Tree) -> Iterator[Fault]:
    """The API server refuses a selector that does not fit the object's own pods; two objects may not share pods."""
    selector = mapping(manifest.spec.get("selector"))
    found = tree.selected(selector)
    if all(pod.owner is not manifest for pod in found):
        yield manifest.finding("spec.selector", f"does not fit the labels of its own pods: {_shown(selector)}")
    for pod in found:
        if pod.owner is not manifest:
            yield manifest.finding("spec.selector", f"fits the pods of {pod.owner} too: {_shown(selector)}")


def _of_service(service: Manifest, tree: Tree) -> Iterator[Fault]:
    labels = mapping(service.spec.get("selector"))
    pods = tree.selected({"matchLabels": labels}) if labels else []
    if not pods:
        yield service.finding("spec.selector", f"fits no pod: {_shown(labels)}")
    for field, port in _ports(service.spec.get("ports"), "spec.ports"):
        target = port.get("targetPort", port.get("port"))
        for pod in pods:
            if not _has_port(pod, target):
                yield service.finding(f"{field}.targetPort", f"{target!r} is no port of the pods of {pod.owner}")


def _of_scaler(scaler: Manifest, tree: Tree) -> Iterator[Fault]:
    target = mapping(scaler.spec.get("scaleTargetRef"))
    kind, name = str(target.get("kind", "Deployment")), str(target.get("name", ""))
    found = tree.find(kind, name)
    if found is None:
        yield scaler.finding("spec.scaleTargetRef", f"the {kind} {name!r} is not in the tree")
    elif "replicas" in found.spec:
        yield found.finding("spec.replicas", f"is fixed, and {scaler} changes it: leave it out")
    least, most = (
        scaler.spec.get(field, scaler.spec.get(other))
        for field, other in (("minReplicas", "minReplicaCount"), ("maxReplicas", "maxReplicaCount"))
    )
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield scaler.finding("spec.minReplicas", f"{least} is above the {most} of spec.maxReplicas")


def _of_monitor(monitor: Manifest, tree: Tree) -> Iterator[Fault]:
    selector = mapping(monitor.spec.get("selector"))
    pods = tree.selected(selector)
    if not pods:
        yield monitor.finding("spec.selector", f"fits no pod: {_shown(selector)}")
    for number, endpoint in enumerate(sequence(monitor.spec.get("podMetricsEndpoints"))):
        port = mapping(endpoint).get("port")
        if pods and not any(_has_port(pod, port) for pod in pods):
            yield monitor.finding(f"spec.podMetricsEndpoints[{number}].port", f"{port!r} is no port of these pods")


def _of_ray_service(service: Manifest, known: _Known) -> Iterator[Fault]:
    cluster = mapping(service.spec.get("rayClusterConfig"))
    field = "spec.rayClusterConfig"
    secret = mapping(cluster.get("authOptions")).get("secretName")
    if secret and (problem := known.problem("Secret", {"name": secret}, "auth_token")):
        yield service.finding(f"{field}.authOptions.secretName", problem)
    redis = mapping(cluster.get("gcsFaultToleranceOptions"))
    reference = mapping(mapping(mapping(redis.get("redisPassword")).get("valueFrom")).get("secretKeyRef"))
    if reference and (problem := known.problem("Secret", reference, str(reference.get("key", "")))):
        yield service.finding(f"{field}.gcsFaultToleranceOptions.redisPassword", problem)
    host, _, port = str(redis.get("redisAddress", "")).rpartition(":")
    if host and "." not in host:
        named = known.tree.find("Service", host)
        ports = [port for _, port in _ports(named.spec.get("ports"), "")] if named else []
        if named is None or all(str(each.get("port")) != port for each in ports):
            problem = f"no Service {host!r} with the port {port} is in the tree"
            yield service.finding(f"{field}.gcsFaultToleranceOptions.redisAddress", problem)


def _ports(ports: Any, field: str) -> list[tuple[str, Json]]:
    found = [port for port in sequence(ports) if isinstance(port, dict)]
    return [(f"{field}[{port.get('name', port.get('port'))}]", port) for port in found]


def _has_port(pod: PodTemplate, target: Any) -> bool:
    ports = [port for _, container in pod.containers for port in sequence(container.get("ports"))]
    return any(target in (port.get("name"), port.get("containerPort")) for port in ports)


def _shown(selector: Mapping[str, Any]) -> str:
    labels = mapping(selector.get("matchLabels")) or selector
    return ", ".join(f"{key}={value}" for key, value in labels.items() if isinstance(value, str)) or "it is empty"
