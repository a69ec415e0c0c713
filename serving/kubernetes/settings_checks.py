"""Checks the settings that pods get as variables: known, of the right form, and fitting the pod's ports and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from zoetrope.model.request.schema_errors import describe
from zoetrope.serving.config.addresses import is_loopback, parse_address
from zoetrope.serving.config.forms import problems
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.variables import PREFIX, unknown_variables
from zoetrope.serving.kubernetes.objects import Fault, Json, Manifest, PodTemplate, Tree, mapping, sequence

# Settings of processes that listen -> the name of the container's port.
PORTS = {"gateway": ("grpc", "http", "management"), "sweeper": ("management",)}
SPARE_SECONDS = 10  # beyond what a gateway takes to drain and stop


class _Given(Settings):
    """Settings of pods: those of this process, whose variables have another prefix, are not theirs."""

    model_config = SettingsConfigDict(env_prefix="ZOETROPE_UNREAD_")


def setting_findings(tree: Tree) -> Iterator[Fault]:
    """Yield what is wrong with the settings of every pod that has some."""
    for pod in tree.pods:
        for field, container in pod.all_containers:
            values, places = _variables(pod.owner, field, container, tree)
            for line in unknown_variables(values):
                yield pod.owner.finding(places[line.split()[0]], line)
            settings = None
            for item in parse_settings(values):
                if isinstance(item, Settings):
                    settings = item
                else:
                    name, problem = item
                    variable = f"{PREFIX}{name.upper()}"
                    yield pod.owner.finding(places.get(variable, f"{field}.env"), f"{variable} {problem}")
            if settings is not None and pod.component in PORTS and (field, container) in pod.containers:
                yield from _fits(pod, field, container, settings)


def parse_settings(values: Mapping[str, str]) -> tuple[Settings | tuple[str, str], ...]:
    """Return the settings that variables mean, or (name, problem) of each that is wrong."""
    known = {name: values[key] for key in values if (name := key.removeprefix(PREFIX).lower()) in Settings.model_fields}
    return _parsed(tuple(sorted(known.items())))


@cache
def _parsed(known: tuple[tuple[str, str], ...]) -> tuple[Settings | tuple[str, str], ...]:
    try:
        settings = _Given(**dict(known))  # type: ignore[arg-type]  # text, as variables are
    except ValidationError as error:
        items = error.errors(include_url=False)
        return tuple((".".join(map(str, item["loc"][:1])), describe(item)) for item in items)
    return tuple(problems(settings)) or (settings,)


def _variables(owner: Manifest, field: str, container: Json, tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
    """Return a container's ZOETROPE_* variables as far as the tree says them, and the field that sets each."""
    values: dict[str, str] = {}
    places: dict[str, str] = {}
    for source in sequence(container.get("envFrom")):
        found = tree.find("ConfigMap", str(mapping(source.get("configMapRef")).get("name")))
        for name, value in mapping(found.data.get("data") if found else None).items():
            values[name], places[name] = str(value), f"{field}.envFrom[{found}].{name}"
    for variable in sequence(container.get("env")):
        name = str(variable.get("name"))
        places[name] = f"{field}.env[{name}]"
        if name.startswith(PREFIX):
            values[name] = str(variable.get("value", ""))
            if "valueFrom" in variable and name == f"{PREFIX}DATABASE":
                values[name] = "postgresql://user@host/database"  # a Secret's, which is not here
    return {name: value for name, value in values.items() if name.startswith(PREFIX)}, places


def _fits(pod: PodTemplate, field: str, container: Json, settings: Settings) -> Iterator[Fault]:
    """Check that a process listens where its ports are, and may take as long to stop as it does."""
    ports = {port.get("name"): port.get("containerPort") for port in sequence(container.get("ports"))}
    for name in PORTS[pod.component]:
        address = str(getattr(settings, name))
        if not address:
            yield pod.owner.finding(
                f"{field}.ports[{name}]", f"nothing listens there: {PREFIX}{name.upper()} is not set"
            )
            continue
        number = parse_address(address, name)[1]
        if ports.get(name) != number:
            message = f"{ports.get(name)} is not the port of {PREFIX}{name.upper()}, {address}"
            yield pod.owner.finding(f"{field}.ports[{name}].containerPort", message)
        if is_loopback(address, name):
            yield pod.owner.finding(f"{field}.envFrom", f"{PREFIX}{name.upper()} {address} reaches no other pod")
    grace: Any = pod.spec.get("terminationGracePeriodSeconds", 30)
    needed = settings.drain_seconds + settings.stop_seconds + SPARE_SECONDS if pod.component == "gateway" else 0
    if isinstance(grace, int) and grace < needed:
        message = f"{grace} is below {needed:g}: drain_seconds, stop_seconds and {SPARE_SECONDS} s to spare"
        yield pod.finding("spec.terminationGracePeriodSeconds", message)
