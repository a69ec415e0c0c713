"""Checks serveConfigV2, a text that KubeRay hands to Ray Serve unread: what is wrong in it shows in no other way."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from zoetrope.model.request.schema_errors import describe
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.variables import PREFIX
from zoetrope.serving.kubernetes.objects import Fault, Manifest, Tree, mapping, sequence
from zoetrope.serving.kubernetes.settings_checks import parse_settings

FIELD = "spec.serveConfigV2"
SECRET = ("database", "bootstrap_key")  # settings that hold secrets, or paths to them
# What gateways and sweepers must be told as well, because they work with it.
SHARED = (
    *("model", "engines", "ranks", "cfg_groups", "noise_experts", "min_engines", "max_engines", "quantize"),
    *("artifact_store", "snapshot_store"),
)


def serve_findings(tree: Tree) -> Iterator[Fault]:
    """Yield what Serve or our builder would refuse, and where the settings of other processes differ."""
    for service in tree.of("RayService"):
        for field, message in _problems(str(service.spec.get("serveConfigV2", ""))):
            yield service.finding(f"{FIELD}.{field}".rstrip("."), message)
        yield from _agreement(service, tree)


def application_args(service: Manifest) -> dict[str, Any]:
    """Return the args of a RayService's application; empty if they cannot be read."""
    try:
        config = yaml.safe_load(str(service.spec.get("serveConfigV2", "")))
    except yaml.YAMLError:
        return {}
    applications = sequence(mapping(config).get("applications"))
    return mapping(mapping(applications[0]).get("args")) if applications else {}


@cache
def _problems(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(_check(text))


def _check(text: str) -> Iterator[tuple[str, str]]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield "", f"not YAML: {' '.join(str(error).split())}"
        return
    if not isinstance(config, dict):
        yield "", "is empty"
        return
    from ray.serve.schema import ServeDeploySchema

    try:
        known = ServeDeploySchema.model_validate(config).model_dump(by_alias=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            yield ".".join(map(str, item["loc"])), describe(item)
        return
    for field in _unknown(config, known, ""):
        yield field, "is unknown to Ray Serve, which ignores it"
    if config.get("proxy_location") != "Disabled":
        yield "proxy_location", "must be Disabled: clients come through gateways, and a proxy would listen without keys"
    for number, application in enumerate(config["applications"]):
        for field, message in _application(application):
            yield f"applications[{application.get('name', number)}].{field}", message


def _unknown(given: Any, known: Any, field: str) -> Iterator[str]:
    """Yield the keys that a model did not keep."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            place = f"{field}.{name}".lstrip(".")
            if name not in known:
                yield place
            else:
                yield from _unknown(value, known[name], place)
    elif isinstance(given, list) and isinstance(known, list):
        for number, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from _unknown(one, other, f"{field}[{number}]")


def _application(application: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if application.get("route_prefix", "/") is not None:
        yield "route_prefix", "must be null: the application answers no HTTP"
    path = str(application["import_path"])
    module, _, name = path.partition(":")
    try:
        builder = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        yield "import_path", f"{path!r} cannot be imported: {error}"
        return
    kinds = [parameter.annotation for parameter in inspect.signature(builder).parameters.values()]
    if len(kinds) != 1 or not (isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel)):
        yield "import_path", f"{path!r} is no builder: it must take one pydantic model"
        return
    args = mapping(application.get("args"))
    for field in SECRET:
        if field in args:
            yield (
                f"args.{field}",
                "must come from a Secret, as a variable of the containers: args are stored in the clear",
            )
    for field in args:
        if field not in Settings.model_fields:
            yield f"args.{field}", "is no setting"
    try:
        kinds[0].model_validate(args)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            if item["loc"] and item["loc"][0] in Settings.model_fields:
                yield f"args.{'.'.join(map(str, item['loc']))}", describe(item)
    for read in parse_settings({f"{PREFIX}{name.upper()}": _text(value) for name, value in args.items()}):
        if not isinstance(read, Settings):
            yield f"args.{read[0]}", read[1]


def _agreement(service: Manifest, tree: Tree) -> Iterator[Fault]:
    """Compare the args with the variables of the processes beside Ray."""
    args = {name: _text(value) for name, value in application_args(service).items()}
    for config in tree.of("ConfigMap"):
        values = mapping(config.data.get("data"))
        if f"{PREFIX}MODEL" not in values:
            continue
        others = {name.removeprefix(PREFIX).lower(): str(value) for name, value in values.items()}
        for name in SHARED:
            here, there = args.get(name), others.get(name)
            if name == "model" and here is not None and there is not None:
                here, there = _name(here), _name(there)
            if here != there:
                variable = f"{PREFIX}{name.upper()}"
                message = f"{here or 'nothing'} differs from {variable} of {config}, {there or 'nothing'}"
                yield service.finding(f"{FIELD}.args.{name}", message)


def _name(model: str) -> str:
    """The model's own name: a gateway may have its exported card, engines its folder."""
    names = (one.rpartition("/")[2] for one in model.split(","))
    return ",".join(name.removesuffix(".toml").removesuffix(".card.json") for name in names)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
