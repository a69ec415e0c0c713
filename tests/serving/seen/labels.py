"""The values that a label of our metrics may have in a service: none comes from a client, so there are few series
however many jobs there were."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

from google.longrunning import operations_pb2
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.serving.seen.service import Seen
from zoetrope.cluster.protocol.messages import Restarts
from zoetrope.cluster.protocol.messages import State as EngineState
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.serving.api.zoetrope.video.v1 import account_pb2, engines_pb2, media_pb2, video_pb2
from zoetrope.serving.gateway.http.compatibility_apis import COMPATIBILITY_APIS
from zoetrope.serving.gateway.submit.counts import ACCEPTED, OUTCOMES, REFUSED
from zoetrope.serving.jobs.job import Stage, State
from zoetrope.serving.router.forecast_errors import PHASES

ADDED = {"__name__", "instance", "job", "le"}  # by Prometheus
FILES: tuple[Any, ...] = (account_pb2, engines_pb2, media_pb2, video_pb2, operations_pb2, health_pb2, reflection_pb2)
EVENTS = {"written", "failed", "delivered", "retried", "given_up", "done"}  # of snapshots, webhooks and sweeps


def values(seen: Seen) -> dict[str, set[str]]:
    """Return the values by label, of a service with nano that is spoken to over gRPC alone."""
    return {
        "api": {"grpc", "http", "dashboard", *(api.name for api in COMPATIBILITY_APIS)},
        "method": methods() | {"unknown address"},
        "code": {*code_pb2.Code.keys(), "404", "500", "503"},
        "outcome": {ACCEPTED, REFUSED, *OUTCOMES} | EVENTS,
        "model": {"nano"},
        "task": set(TASK_KINDS),
        "state": {*State, *get_args(EngineState), "running", "waiting"},
        "stage": {*Stage, *PHASES, "encoding", "conditioner", "decoder"},
        "phase": {"processes", "group", "read", "hash", "compile", "warm_up", "total"},
        "engine": {engine.name.rpartition("/")[2] for engine in seen.service.client.engines().engines},
        "reason": {cause.name for cause in fields(Restarts)},
        "deployment": {"Engine"},
        "place": {"held", "spilled"},
        "cache": {"prompts", "media"},
        "found": {"hits", "misses"},
        "store": {"database", "artifacts", "snapshots"},
    }


def methods() -> set[str]:
    """Return every method of the services that a gateway has."""
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    return {f"{service.name}/{method.name}" for service in services for method in service.methods}


def unexpected(series: dict[str, str], allowed: dict[str, set[str]]) -> list[str]:
    """Return which labels of a series have a value that none may have."""
    return [f"{label}={value}" for label, value in series.items() if label not in ADDED and value not in allowed[label]]
