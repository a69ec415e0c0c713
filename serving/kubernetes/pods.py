"""Checks pods: the restricted level of pod security, and what makes them start, be probed, and end well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from zoetrope.serving.kubernetes.objects import Fault, Json, PodTemplate, Tree, mapping, sequence

QUANTITY = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(m|[kKMGTPE]i?|e\d+)?")
UNITS = (
    {"": 1.0, "m": 1e-3}
    | {
        f"{letter}{i}": float((1024 if i else 1000) ** power)
        for power, letter in enumerate("KMGTPE", 1)
        for i in ("", "i")
    }
    | {"k": 1e3}
)
# What a restricted pod may mount: nothing of the node.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = ("RuntimeDefault", "Localhost")
HOST = ("hostNetwork", "hostPID", "hostIPC")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
ACTIONS = ("httpGet", "tcpSocket", "grpc", "exec")
PINNED = re.compile(r".+(@sha256:[0-9a-f]{64}|:[\w.-]+)")


def pod_findings(tree: Tree) -> Iterator[Fault]:
    """Yield what is wrong with pods by themselves."""
    for pod in tree.pods:
        yield from _security(pod)
        for field, container in pod.all_containers:
            yield from _container_security(pod, field, container)
            yield from _resources(pod, field, container)
            yield from _image(pod, field, container)
        for field, container in pod.containers:
            yield from _ports(pod, field, container)
            yield from _probes(pod, field, container)
        for field, volume in pod.volumes:
            if "emptyDir" in volume and "sizeLimit" not in mapping(volume["emptyDir"]):
                yield pod.owner.finding(f"{field}.emptyDir.sizeLimit", "is missing: the pod could fill its node's disk")


def quantity(value: Any) -> float | None:
    """Return what a quantity such as ``500m`` or ``2Gi`` amounts to; None if it is none."""
    match = QUANTITY.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        return None
    unit = match[2] or ""
    return float(match[1]) * (float(f"1{unit}") if unit.startswith("e") else UNITS[unit])


def _security(pod: PodTemplate) -> Iterator[Fault]:
    for name in HOST:
        if pod.spec.get(name):
            yield pod.finding(f"spec.{name}", "is not allowed: pod security is `restricted`")
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield pod.finding("spec.automountServiceAccountToken", "must be false: nothing here talks to the API server")
    context = mapping(pod.spec.get("securityContext"))
    if context.get("runAsNonRoot") is not True:
        yield pod.finding("spec.securityContext.runAsNonRoot", "must be true")
    if mapping(context.get("seccompProfile")).get("type") not in SECCOMP:
        yield pod.finding("spec.securityContext.seccompProfile.type", f"must be {' or '.join(SECCOMP)}")
    if context.get("runAsUser") in (None, 0):
        yield pod.finding("spec.securityContext.runAsUser", "must be a number other than 0")
    for field, volume in pod.volumes:
        if others := set(volume) - VOLUMES - {"name"}:
            yield pod.owner.finding(f"{field}.{others.pop()}", "is not allowed: pod security is `restricted`")


def _container_security(pod: PodTemplate, field: str, container: Json) -> Iterator[Fault]:
    context, path = mapping(container.get("securityContext")), f"{field}.securityContext"
    wanted: dict[str, Any] = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    for name, value in wanted.items():
        if context.get(name) is not value:
            yield pod.owner.finding(f"{path}.{name}", f"must be {str(value).lower()}")
    capabilities = mapping(context.get("capabilities"))
    if "ALL" not in sequence(capabilities.get("drop")):
        yield pod.owner.finding(f"{path}.capabilities.drop", "must have ALL")
    if capabilities.get("add"):
        yield pod.owner.finding(f"{path}.capabilities.add", "must be empty")
    if context.get("privileged"):
        yield pod.owner.finding(f"{path}.privileged", "is not allowed")
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield pod.owner.finding(f"{path}.runAsUser", "must not be root")
    for port in sequence(container.get("ports")):
        if "hostPort" in port:
            yield pod.owner.finding(f"{field}.ports[{port.get('name')}].hostPort", "is not allowed")


def _resources(pod: PodTemplate, field: str, container: Json) -> Iterator[Fault]:
    requests = mapping(mapping(container.get("resources")).get("requests"))
    limits = mapping(mapping(container.get("resources")).get("limits"))
    for where, amounts in (("requests", requests), ("limits", limits)):
        for name, value in amounts.items():
            if quantity(value) is None:
                place = f"{field}.resources.{where}.{name}"
                yield pod.owner.finding(place, f"{value!r} is no quantity, such as 500m or 2Gi")
        for name in ("cpu", "memory"):
            if name not in amounts:
                yield pod.owner.finding(f"{field}.resources.{where}.{name}", "is missing")
    for name in requests.keys() & limits.keys():
        least, most = quantity(requests[name]), quantity(limits[name])
        if least is not None and most is not None and least > most:
            place = f"{field}.resources.requests.{name}"
            yield pod.owner.finding(place, f"{requests[name]} is above its limit, {limits[name]}")
    memory = requests.get("memory"), limits.get("memory")
    if None not in memory and quantity(memory[0]) != quantity(memory[1]):
        message = f"{memory[0]} differs from the limit, {memory[1]}: the pod could be killed while its node has no more"
        yield pod.owner.finding(f"{field}.resources.requests.memory", message)


def _image(pod: PodTemplate, field: str, container: Json) -> Iterator[Fault]:
    image = str(container.get("image", ""))
    if not PINNED.fullmatch(image.rpartition("/")[2]) or image.endswith(":latest"):
        yield pod.owner.finding(f"{field}.image", f"{image!r} must have a tag other than latest, or a digest")


def _ports(pod: PodTemplate, field: str, container: Json) -> Iterator[Fault]:
    names, numbers = set(), set()
    for port in sequence(container.get("ports")):
        name, number = port.get("name"), port.get("containerPort")
        if name in names or number in numbers:
            yield pod.owner.finding(f"{field}.ports[{name}]", "has the name or the number of another port")
        names.add(name)
        numbers.add(number)
        if not isinstance(name, str):
            yield pod.owner.finding(f"{field}.ports[{number}].name", "is missing: probes and monitors name ports")


def _probes(pod: PodTemplate, field: str, container: Json) -> Iterator[Fault]:
    ports = sequence(container.get("ports"))
    known = {value for port in ports for value in (port.get("name"), port.get("containerPort"))}
    names = ", ".join(str(port.get("name")) for port in ports)
    for name in PROBES:
        probe = container.get(name)
        if probe is None:
            if pod.runs_for_ever and name != "startupProbe":
                yield pod.owner.finding(f"{field}.{name}", "is missing")
            continue
        actions = [action for action in ACTIONS if action in probe]
        if len(actions) != 1:
            yield pod.owner.finding(f"{field}.{name}", f"must have exactly one of {', '.join(ACTIONS)}")
        for action in actions:
            port = mapping(probe[action]).get("port")
            if action != "exec" and port not in known:
                place = f"{field}.{name}.{action}.port"
                yield pod.owner.finding(place, f"{port!r} is no port of the container; it has {names or 'none'}")
        for setting in ("periodSeconds", "timeoutSeconds", "failureThreshold"):
            if setting in probe and not (isinstance(probe[setting], int) and probe[setting] >= 1):
                yield pod.owner.finding(f"{field}.{name}.{setting}", f"{probe[setting]!r} must be at least 1")
