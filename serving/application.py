"""The Serve application: the router, the stages around the engines, and the engines."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray import serve

from cluster.engine import EngineReplica
from cluster.placement import PlacementError, seat
from cluster.settings import EngineSettings
from model.tasks import ModelCard, Role
from serving.router.router import RouterReplica
from serving.settings import Settings
from serving.stages.conditioner import Conditioner
from serving.stages.decoder import Decoder
from serving.startup import StartError

log = logging.getLogger("zoetrope.host")

DRAIN_SECONDS = 60.0  # for an engine to end its step and put its segments away
GIVE_BACK_SECONDS = 25.0  # for the router to write how jobs ended and to give leases back
READY_SECONDS = 60.0  # for the router to answer


@dataclass(frozen=True)
class Parts:
    """The classes of the deployments."""

    conditioner: type = Conditioner
    decoder: type = Decoder
    router: type = RouterReplica
    engine: type = EngineReplica


STANDARD = Parts()


def deploy(settings: Settings, card: ModelCard, parts: Parts = STANDARD) -> None:
    """Start all of them on the Ray that this process is connected to; returns when they are healthy and an engine has
    asked for work.

    Raises:
        StartError: the machine cannot take the engines, or something does not start.
    """
    health = {"health_check_period_s": 2.0, "health_check_timeout_s": 30.0, "graceful_shutdown_timeout_s": 1.0}

    def deployment(target: type, **options: Any) -> Any:
        return serve.deployment(**{"ray_actor_options": {"num_cpus": 0}, **health, **options})(target)

    router = deployment(
        parts.router,
        name="Router",
        max_ongoing_requests=1_000,
        graceful_shutdown_timeout_s=GIVE_BACK_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
    ).bind(
        settings,
        card,
        deployment(parts.conditioner, name="Conditioner").bind(card, settings),
        deployment(parts.decoder, name="Decoder", max_ongoing_requests=2).bind(card, settings),
    )
    roles: tuple[Role, ...] = ("high", "low") if settings.noise_experts == "apart" else ("both",)
    engines = []
    for role in roles:
        gang = _gang(settings, role, gpus=bool(ray.cluster_resources().get("GPU")))
        try:
            place = seat(gang, ray.nodes())
        except PlacementError as error:
            raise StartError(f"ranks: {error}") from None
        engines.append(
            deployment(
                parts.engine,
                name="Engine" if role == "both" else f"Engine-{role}-noise",
                num_replicas=settings.engines,
                graceful_shutdown_timeout_s=DRAIN_SECONDS,
                **place.options,
            ).bind(card, router, gang, place.groups)
        )
    engine = engines[0] if len(engines) == 1 else deployment(Both).bind(*engines)
    try:
        serve.run(engine, name="zoetrope", route_prefix=None)
        while not _router().ready.remote().result(timeout_s=READY_SECONDS):
            pass
    except Exception as error:
        raise StartError(f"the application did not start: {' '.join(str(error).split())[:600]}") from None


def alive() -> bool:
    """Ask each part that all others depend on; blocks where the one that is asked hangs. Whether all were there."""
    if not any(node["Alive"] for node in ray.nodes()):
        return False
    serve.status()  # by the controller
    return True


def router_answers(seconds: float) -> bool:
    """Whether it does in that time. One that died or hangs is replaced by Serve, unless Serve cannot either."""
    try:
        _router().ready.remote().result(timeout_s=seconds)
    except Exception as error:
        log.warning("the router does not answer: %s", type(error).__name__)
        return False
    return True


@cache
def _router() -> Any:
    """A handle of the router, which holds connections and is made once."""
    return serve.get_deployment_handle("Router", "zoetrope")


class Both:
    """What an application of two kinds of engines hangs on; it does nothing."""

    def __init__(self, high: Any, low: Any) -> None:
        """The handles are there so that both are deployed."""


def _gang(settings: Settings, role: Role, *, gpus: bool) -> EngineSettings:
    return EngineSettings(
        ranks=settings.ranks,
        cfg_groups=settings.cfg_groups,
        rank_resources={"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0},
        role=role,
        snapshots=str(settings.snapshots),
        snapshot_steps=settings.snapshot_steps,
        snapshot_seconds=settings.snapshot_seconds,
        hang_seconds=settings.hang_seconds,
        compile=settings.compile,
    )
