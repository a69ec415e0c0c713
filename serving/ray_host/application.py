"""The Serve application: the router, the stages around the engines, and the engines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray import serve

from zoetrope.cluster.engine.engine import EngineReplica
from zoetrope.cluster.planning.placement import PlacementError, Seat, planned_seat, seat
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.request.tasks import Role
from zoetrope.serving.config.checked_lists import label_map, shape
from zoetrope.serving.config.engine_groups import engine_groups, models_of_gangs
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.startup_checks import StartError
from zoetrope.serving.ray_host.autoscaling import replicas
from zoetrope.serving.router.router import RouterReplica
from zoetrope.serving.router.scaling import scales
from zoetrope.serving.stages.conditioner import ConditionerReplica
from zoetrope.serving.stages.decoder import DecoderReplica

log = logging.getLogger("zoetrope.host")

DRAIN_SECONDS = 60.0  # for an engine to finish its step and snapshot its segments
RELEASE_SECONDS = 25.0  # for the router to store the outcome of jobs and release its leases
READY_SECONDS = 60.0  # for the router to answer
POLL_SECONDS = 0.1  # how often it is asked at the start whether an engine is there
APPLICATION, ROUTER = "zoetrope", "Router"
MISSED_CHECKS = 3  # consecutive failed health checks after which Serve replaces a replica


@dataclass(frozen=True)
class Deployments:
    """The classes to deploy."""

    conditioner: type = ConditionerReplica
    decoder: type = DecoderReplica
    router: type = RouterReplica
    engine: type = EngineReplica


def deploy(settings: Settings, models: ServedModels, classes: Deployments | None = None) -> None:
    """Deploy the application on the running Ray, whose nodes decide where its gangs go; returns when all is healthy and
    an engine has asked for work, or none is wanted any more.

    Raises:
        StartError: the machine has no room for the engines, or a deployment does not start.
    """
    nodes = ray.nodes()
    gpus = any(node["Resources"].get("GPU") for node in nodes if node["Alive"])

    def seated(gang: EngineSettings) -> Seat:
        if settings.gang_place == "auto":
            return seat(gang, nodes)
        return planned_seat(gang, settings.gang_place)

    engines = application(settings, models, seated, gpus=gpus, classes=classes)
    try:
        serve.run(engines, name=APPLICATION, route_prefix=None)
        while not _router().ready.remote().result(timeout_s=READY_SECONDS) and not _asleep(settings):
            time.sleep(POLL_SECONDS)
    except Exception as error:
        raise StartError(f"the application did not start: {' '.join(str(error).split())[:600]}") from None


def application(
    settings: Settings,
    models: ServedModels,
    seated: Callable[[EngineSettings], Seat],
    *,
    gpus: bool,
    classes: Deployments | None = None,
    variables: Mapping[str, str] | None = None,
) -> serve.Application:
    """Build the application without running it; needs no Ray.

    Args:
        seated: decides where an engine goes. gpus: there are some for the ranks, unless ``rank_device`` says it.
        variables: of the environment of every process, ranks included.

    Raises:
        StartError: a gang has no place. ModelError: a gang can run no model.
    """
    classes = classes or Deployments()
    health = {
        "health_check_period_s": 2.0,
        "health_check_timeout_s": settings.silent_seconds / MISSED_CHECKS,
        "graceful_shutdown_timeout_s": 1.0,
        "graceful_shutdown_wait_loop_s": 0.1,
    }
    environment = {"runtime_env": {"env_vars": dict(variables)}} if variables else {}

    def deployment(target: type, actor: Mapping[str, Any], **options: Any) -> Any:
        return serve.deployment(**{**health, **options, "ray_actor_options": {**actor, **environment}})(target)

    def stage(name: str, target: type, count: int) -> list[Any]:
        """One deployment for each process, because the router chooses who shares one with whom."""
        names = [name, *(f"{name}-{number}" for number in range(2, count + 1))]
        part = name.lower()
        cpus, shares = getattr(settings, f"{part}_cpus"), getattr(settings, f"{part}_gpus")
        actor = {"num_cpus": cpus, "num_gpus": shares, **_selector(settings.stage_labels)}
        return [deployment(target, actor, name=each).bind(models, settings) for each in names]

    router = deployment(
        classes.router,
        {"num_cpus": 0, **_selector(settings.router_labels)},
        name=ROUTER,
        max_ongoing_requests=1_000,
        graceful_shutdown_timeout_s=RELEASE_SECONDS,
    ).bind(
        settings,
        models,
        stage("Conditioner", classes.conditioner, settings.conditioners),
        stage("Decoder", classes.decoder, settings.decoders),
    )
    roles: tuple[Role, ...] = ("high", "low") if settings.noise_experts == "apart" else ("both",)
    groups = engine_groups(settings)
    runnable = models_of_gangs(models, groups, settings.cfg_groups)
    engines = []
    kinds = [(group, role) for group in groups for role in roles]
    for (group, role), (name, scale) in zip(kinds, scales(settings).items(), strict=True):
        gang = _gang(settings, group.ranks, role, gpus=gpus)
        try:
            place = seated(gang)
        except PlacementError as error:
            raise StartError(f"ranks: {error}") from None
        first, *others = runnable[group.ranks]
        leader = place.options["ray_actor_options"]
        grouped = {option: value for option, value in place.options.items() if option != "ray_actor_options"}
        engines.append(
            deployment(
                classes.engine,
                leader,
                name=name,
                **replicas(settings, tuple(card.name for card in runnable[group.ranks]), scale, group.count),
                graceful_shutdown_timeout_s=DRAIN_SECONDS,
                **grouped,
            ).bind(first, router, gang, place.groups, tuple(others))
        )
    root = engines[0] if len(engines) == 1 else deployment(EngineKinds, {"num_cpus": 0}).bind(*engines)
    built: serve.Application = root
    return built


def _selector(labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the option of an actor that goes to nodes with these labels only."""
    return {"label_selector": label_map(labels)} if labels else {}


def _asleep(settings: Settings) -> bool:
    """Tell whether all engines were stopped for want of work, as Serve may do before they have asked for any."""
    found = serve.status().applications[APPLICATION].deployments
    return not any(sum(found[name].replica_states.values()) for name in scales(settings))


def alive() -> bool:
    """Tell whether Ray and Serve's controller respond; blocks while one of them hangs."""
    if not any(node["Alive"] for node in ray.nodes()):
        return False
    serve.status()  # asks the controller
    return True


def router_answers(seconds: float) -> bool:
    """Tell whether the router answers in time. Serve replaces a router that died or hangs, if Serve itself works."""
    try:
        _router().ready.remote().result(timeout_s=seconds)
    except Exception as error:
        log.warning("the router does not answer: %s", type(error).__name__)
        return False
    return True


@cache
def _router() -> Any:
    """Return the router's handle, made once because it holds connections."""
    return serve.get_deployment_handle(ROUTER, APPLICATION)


class EngineKinds:
    """The root deployment of an application with several kinds of engines; it only makes Serve deploy all."""

    def __init__(self, *engines: Any) -> None:
        pass


def _gang(settings: Settings, ranks: int, role: Role, *, gpus: bool) -> EngineSettings:
    """``gpus``: whether there are any, for a ``rank_device`` that leaves it open."""
    if settings.rank_device != "auto":
        gpus = settings.rank_device == "gpu"
    return EngineSettings(
        ranks=ranks,
        cfg_groups=settings.cfg_groups,
        rank_resources={"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0},
        role=role,
        snapshots=settings.snapshots_url,
        snapshot_steps=settings.snapshot_steps,
        snapshot_seconds=settings.snapshot_seconds,
        hang_seconds=settings.hang_seconds,
        compile=settings.compile,
        cuda_graphs=settings.cuda_graphs,
        adapters=settings.artifacts_url,
        adapter_slots=settings.adapter_slots,
        adapter_rank=int(settings.adapter_rank),
        warmup_shapes=tuple(map(shape, settings.warmup_shapes)),
    )
