"""The gateway's process: ``python -m serving.gateway.main`` with the settings as JSON in ZOETROPE_SETTINGS.

Prints ``{"grpc": "HOST:PORT", "http": "HOST:PORT"}`` on stdout once both ports are bound. Ends on SIGTERM, on SIGINT,
and when its stdin does, for then the supervisor has died. Exit status 2 and one line on stderr when it cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import uvicorn
from grpc_health.v1 import health, health_pb2
from pydantic import ValidationError

from model.presets import ModelError, find_model
from serving.addresses import AddressError, parse_address
from serving.api import API_TASKS
from serving.artifacts import ArtifactError, ArtifactStore
from serving.gateway.http import http_app
from serving.gateway.intake import Intake
from serving.gateway.liveness import Liveness
from serving.gateway.server import VIDEO_SERVICE, grpc_server, keep_health
from serving.jobs.store import JobStore, StoreError
from serving.settings import Settings

STOP_SECONDS = 3.0  # what calls get to end


class StartError(Exception):
    """The gateway cannot start; one line that says why."""


class HttpServer(uvicorn.Server):
    """Leaves the signals to the process that it is only a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = read_settings()
        card = find_model(settings.model)
        card = replace(card, tasks=tuple(kind for kind in card.tasks if kind in API_TASKS))
        store, artifacts = open_stores(settings)
        with contextlib.closing(store):
            asyncio.run(run(settings, Intake(store, card, settings.max_queued), artifacts))
    except (StartError, AddressError, ModelError, StoreError, ArtifactError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def read_settings() -> Settings:
    """
    Raises:
        StartError: they are missing or wrong.
    """
    try:
        return Settings.model_validate_json(os.environ["ZOETROPE_SETTINGS"])
    except KeyError:
        raise StartError("ZOETROPE_SETTINGS is not set") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise StartError(f"ZOETROPE_SETTINGS: {wrong}") from None


def open_stores(settings: Settings) -> tuple[JobStore, ArtifactStore]:
    """
    Raises:
        StartError, StoreError, ArtifactError: the data directory cannot be used.
    """
    try:
        settings.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"data_dir: {settings.directory} cannot be created: {error.strerror}") from None
    return JobStore(settings.database), ArtifactStore(settings.artifacts)


async def run(settings: Settings, intake: Intake, artifacts: ArtifactStore) -> None:
    """Serve until told to stop.

    Raises:
        AddressError, StartError: a port cannot be bound.
    """
    liveness, status = Liveness(intake.store, intake.card.name), health.aio.HealthServicer()
    server = grpc_server(intake, artifacts, liveness, status)
    grpc_host, grpc_port = parse_address(settings.grpc, "grpc")
    listen(settings.grpc, "grpc").close()  # says why where it fails; grpc's core only writes that to stderr itself
    try:
        grpc_port = server.add_insecure_port(join_address(grpc_host, grpc_port))
    except RuntimeError:
        raise StartError(f"grpc: cannot listen at {settings.grpc}") from None
    with listen(settings.http, "http") as listener:
        bound = {
            "grpc": join_address(grpc_host, grpc_port),
            "http": join_address(parse_address(settings.http, "http")[0], listener.getsockname()[1]),
        }
        config = uvicorn.Config(
            http_app(liveness), log_config=None, access_log=False, timeout_graceful_shutdown=int(STOP_SECONDS)
        )
        web = HttpServer(config)
        await status.set(VIDEO_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)  # known from the first call on
        await server.start()
        stop_on_signals(liveness)
        tasks = [asyncio.create_task(web.serve([listener])), asyncio.create_task(keep_health(liveness, status))]
        for task in tasks:  # neither ends by itself; should one fail, the supervisor starts another gateway
            task.add_done_callback(lambda _: liveness.stop())
        print(json.dumps(bound), flush=True)
        while not await liveness.stopping_within(3_600):
            pass
        web.should_exit = True
        await asyncio.gather(server.stop(STOP_SECONDS), *tasks)


def stop_on_signals(liveness: Liveness) -> None:
    """SIGTERM, SIGINT and the end of stdin stop the gateway."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, liveness.stop)

    def wait_for_supervisor() -> None:
        # os.read: a thread that waits in sys.stdin would hold its lock at exit.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(liveness.stop)

    threading.Thread(target=wait_for_supervisor, name="stdin", daemon=True).start()


def listen(address: str, field: str) -> socket.socket:
    """A listening socket.

    Raises:
        AddressError: the address is wrong.
        StartError: it is taken.
    """
    host, port = parse_address(address, field)
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(resolved)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise StartError(f"{field}: cannot listen at {address}: {error.strerror}") from None


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
