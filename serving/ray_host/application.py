"""The Serve application: the router, the stages around the engines, and the engines."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray import serve

from zoetrope.cluster.engine.engine import EngineReplica
from zoetrope.cluster.planning.placement import PlacementError, seat
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.request.tasks import Role
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
MISSED_CHECKS = 3  # consecutive failed health checks after which Serve replaces a replica


@dataclass(frozen=True)
class Deployments:
    """The classes to deploy."""

    conditioner: type = ConditionerReplica
    decoder: type = DecoderReplica
    router: type = RouterReplica
    engine: type = EngineReplica


def deploy(settings: Settings, models: ServedModels, classes: Deployments | None = None) -> None:
    """Deploy the application on the running Ray; returns when all is healthy and an engine has asked for work.

    Raises:
        StartError: the machine has no room for the engines, or a deployment does not start.
    """
    classes = classes or Deployments()
    health = {
        "health_check_period_s": 2.0,
        "health_check_timeout_s": settings.silent_seconds / MISSED_CHECKS,
        "graceful_shutdown_timeout_s": 1.0,
    }

    def deployment(target: type, **options: Any) -> Any:
        return serve.deployment(**{"ray_actor_options": {"num_cpus": 0}, **health, **options})(target)

    def stage(name: str, target: type, count: int) -> list[Any]:
        """One deployment for each process, because the router chooses who shares one with whom."""
        names = [name, *(f"{name}-{number}" for number in range(2, count + 1))]
        return [deployment(target, name=each).bind(models, settings) for each in names]

    router = deployment(
        classes.router,
        name="Router",
        max_ongoing_requests=1_000,
        graceful_shutdown_timeout_s=RELEASE_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
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
        gang = _gang(settings, group.ranks, role, gpus=bool(ray.cluster_resources().get("GPU")))
        try:
            place = seat(gang, ray.nodes())
        except PlacementError as error:
            raise StartError(f"ranks: {error}") from None
        first, *others = runnable[group.ranks]
        engines.append(
            deployment(
                classes.engine,
                name=name,
                **replicas(settings, tuple(card.name for card in runnable[group.ranks]), scale, group.count),
                graceful_shutdown_timeout_s=DRAIN_SECONDS,
                **place.options,
            ).bind(first, router, gang, place.groups, tuple(others))
        )
    engine = engines[0] if len(engines) == 1 else deployment(EngineKinds).bind(*engines)
    try:
        serve.run(engine, name="zoetrope", route_prefix=None)
        while not _router().ready.remote().result(timeout_s=READY_SECONDS):
            pass
    except Exception as error:
        raise StartError(f"the application did not start: {' '.join(str(error).split())[:600]}") from None


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
    return serve.get_deployment_handle("Router", "zoetrope")


class EngineKinds:
    """The root deployment of an application with several kinds of engines; it only makes Serve deploy all."""

    def __init__(self, *engines: Any) -> None:
        pass


def _gang(settings: Settings, ranks: int, role: Role, *, gpus: bool) -> EngineSettings:
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
    )
