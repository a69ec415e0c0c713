"""The gateway's process: ``python -m zoetrope.serving.gateway.main`` with the settings as JSON in ZOETROPE_SETTINGS.

Prints ``{"grpc": "HOST:PORT", "http": "HOST:PORT"}`` on stdout once both ports are bound, and then signs of
life. Ends on SIGTERM, on SIGINT, and when its stdin does, for then the supervisor has died. Exit status 2 and one line
on stderr when it cannot start, 1 when something in it broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import resource
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import uvicorn

from zoetrope.cluster.telemetry.process import begin
from zoetrope.cluster.telemetry.traces import flush_traces
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.config.addresses import AddressError, join_address, parse_address
from zoetrope.serving.config.hashing import hash_at_start
from zoetrope.serving.config.heartbeat import keep_beating
from zoetrope.serving.config.listening import listen
from zoetrope.serving.config.logs import describe, set_up
from zoetrope.serving.config.served_models import ServedModels, open_models
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.shutdown import stop_on_signals
from zoetrope.serving.config.startup_checks import (
    StartError,
    check_keys,
    check_media,
    check_tls,
    make_directory,
    read_settings,
)
from zoetrope.serving.gateway.auth.authenticator import Authenticator
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.grpc.auth_interceptor import Gate
from zoetrope.serving.gateway.grpc.health_service import HealthService, Status
from zoetrope.serving.gateway.grpc.server import VIDEO_SERVICE, credentials, grpc_server, keep_health, stop_server
from zoetrope.serving.gateway.grpc.sockets import Sockets
from zoetrope.serving.gateway.http.app import http_app
from zoetrope.serving.gateway.http.transport.connections import Connections
from zoetrope.serving.gateway.http.transport.listener import PacedListener
from zoetrope.serving.gateway.http.transport.timeouts import BoundedProtocol
from zoetrope.serving.gateway.limits.threads import FairThreads
from zoetrope.serving.gateway.submit.media import ClientMedia
from zoetrope.serving.gateway.submit.submission import Submitter
from zoetrope.serving.gateway.watch.forecasts import Forecasts
from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.gateway.watch.revocation import RevocationWatch
from zoetrope.serving.gateway.watch.watcher import Watcher
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.management.readiness import DatabaseCheck
from zoetrope.serving.management.server import start_management
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.hooks import Moderation
from zoetrope.serving.storage.store import ArtifactError, open_artifacts

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h
SWITCH_SECONDS = 0.001  # that a thread computes while others, above all the event loop, wait for the interpreter
THREADS_EACH = 16  # of one caller
THREADS = 64  # calls that may wait for the database or the disk at a time
MAX_FILES = 16_384
HTTP_IDLE_SECONDS = 65  # a little more than load balancers keep a connection
MEDIA_WORKERS = 2  # one of them for small files alone
log = logging.getLogger("zoetrope.gateway")


class HttpServer(uvicorn.Server):
    """Leaves the signals to the process that it is only a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> int:
    try:
        settings = read_settings()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return serve(settings)


def serve(settings: Settings, *, supervised: bool = True) -> int:
    """Run a gateway until it is told to stop; the exit status.

    Args:
        supervised: speak JSON to a supervisor and end with it, else run on its own whatever becomes of stdin.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    return_memory()
    set_up(settings.log_format)
    begin("gateway")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes addresses, which may hold secrets
    try:
        check_tls(settings)
        models = open_models(settings, find_model)
        if not supervised:  # else the supervisor tells
            for warning in (warning for card in models for warning in card.warnings):
                log.warning("%s", warning)
            check_media(settings)
            for card in models:
                hash_at_start(card)
        with open_core(settings, models) as core:
            in_order = asyncio.run(run(core, supervised))
        flush_traces()
    except (StartError, AddressError, ModelError, StoreError, ArtifactError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0 if in_order else 1


@contextlib.contextmanager
def open_core(settings: Settings, models: ServedModels) -> Iterator[Core]:
    """Open everything that the APIs work with.

    Raises:
        StartError, StoreError, ArtifactError: a store cannot be used, or the settings contradict each other.
    """
    make_directory(settings)
    try:
        moderation = Moderation(settings)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"blocked_words: {error}") from None
    try:
        guard = Guard(allow=settings.allow_networks)
    except ValueError as error:
        raise StartError(f"allow_networks: {error}") from None
    artifacts = open_artifacts(settings.artifacts_url)
    with contextlib.ExitStack() as stack:
        stores = open_stores(settings.database_url, migrate=settings.may_migrate)
        stack.callback(stores.close)
        required = check_keys(settings, stores)
        sandbox = Sandbox(MEDIA_WORKERS, unsafe=settings.unsafe_media)
        stack.callback(sandbox.close)
        client_media = ClientMedia(settings, stores.media, stores.jobs, artifacts, sandbox, guard)
        forecasts = Forecasts(stores.forecasts)
        yield Core(
            settings=settings,
            models=models,
            stores=stores,
            artifacts=artifacts,
            submitter=Submitter(
                settings, models, stores.jobs, client_media, moderation, guard, stores.adapters, forecasts
            ),
            client_media=client_media,
            authenticator=Authenticator(stores.keys, required=required),
            liveness=Liveness(stores.jobs, [card.name for card in models], may_sleep=settings.min_engines == 0),
            watcher=Watcher(stores.jobs, forecasts),
            revocations=RevocationWatch(stores.keys),
        )


async def run(core: Core, supervised: bool = True) -> bool:
    """Serve until told to stop, or until something breaks.

    Returns:
        Whether nothing broke.

    Raises:
        AddressError, StartError: a port cannot be bound.
    """
    settings, liveness = core.settings, core.liveness
    allow_many_files()
    asyncio.get_running_loop().set_default_executor(FairThreads(THREADS, THREADS_EACH))
    status = HealthService()
    gate = Gate(core, Sockets())
    server = grpc_server(core, status, gate)
    grpc_host, grpc_port = parse_address(settings.grpc, "grpc")
    listen(settings.grpc, "grpc").close()  # says why where it fails; grpc's core only writes that to stderr itself
    try:
        secured = credentials(settings)
        address = join_address(grpc_host, grpc_port)
        grpc_port = server.add_secure_port(address, secured) if secured else server.add_insecure_port(address)
    except (RuntimeError, OSError) as error:
        raise StartError(f"grpc: cannot listen at {settings.grpc}: {error}") from None
    async with contextlib.AsyncExitStack() as stack:
        management = await stack.enter_async_context(managed(core))
        listener = stack.enter_context(PacedListener.of(listen(settings.http, "http"), core.pace))
        bound = {
            "grpc": join_address(grpc_host, grpc_port),
            "http": join_address(parse_address(settings.http, "http")[0], listener.getsockname()[1]),
            **({"management": management} if management else {}),
        }
        web = HttpServer(http_config(core))
        status.set(VIDEO_SERVICE, Status.NOT_SERVING)  # known from the first call on
        await server.start()
        stop_on_signals(partial(liveness.drain, settings.drain_seconds), with_stdin=supervised)
        tasks = [_start(web.serve([listener])), _start(keep_health(liveness, status))]
        runs = (core.pace.run(), core.watcher.run(), core.revocations.run(), gate.sockets.run(grpc_port))
        background = [_start(run) for run in runs]
        broken: list[asyncio.Task[None]] = []

        def note_end(task: asyncio.Task[None]) -> None:
            if not liveness.stopping:
                broken.append(task)
            liveness.stop()

        for task in (*tasks, *background):  # none ends by itself; should one, another gateway is started
            task.add_done_callback(note_end)
        gc.collect()
        gc.freeze()  # what is here now stays: no collection has to look at it again, which takes tens of milliseconds
        print(json.dumps(bound) if supervised else f"ready grpc={bound['grpc']} http={bound['http']}", flush=True)
        if supervised:
            background.append(asyncio.create_task(keep_beating()))
        while not await liveness.stopping_within(3_600):
            pass
        web.should_exit = True
        await stop_server(server, gate, grpc_port, settings.stop_seconds)
        await asyncio.wait(tasks)
        broken += [task for task in tasks if task not in broken and task.exception() is not None]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for task in broken:
            breach = task.exception()
            log.error("%s ended:\n%s", task.get_name(), "by itself" if breach is None else describe(breach))
        return not broken


def _start(run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task that is named after what it does."""
    return asyncio.create_task(run, name=getattr(run, "__qualname__", None))


@contextlib.asynccontextmanager
async def managed(core: Core) -> AsyncIterator[str]:
    """Serve the management port, if there is one; yields where. Ready means that the database answers, for jobs are
    taken while engines are still loading.

    Raises:
        AddressError, StartError: it cannot be bound.
    """
    if not core.settings.management:
        yield ""
        return
    database = DatabaseCheck(core.stores)

    async def ready() -> str:
        return "it is stopping" if core.liveness.draining else await database.problem()

    management = await start_management(core.settings.management, ready=ready, registry=core.registry)
    try:
        yield management.address
    finally:
        await management.close()
        database.close()


def return_memory() -> None:
    """Have glibc give back what is freed: it would keep what a flood took, in as many heaps as there are threads."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 2), (M_MMAP_THRESHOLD, 256 << 10), (M_TRIM_THRESHOLD, 1 << 20)):
            mallopt(option, value)


def allow_many_files() -> None:
    """Each connection is one, and shells often allow no more than 1,024."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(most, MAX_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def http_config(core: Core) -> uvicorn.Config:
    """Bounded in connections, idle time and headers, so that slow or greedy clients take nothing from others."""
    settings = core.settings

    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return uvicorn.Config(
        http_app(core),
        http=partial(BoundedProtocol, connections=Connections()),  # type: ignore[arg-type]  # it is only called
        ws="none",  # an upgraded connection would be bounded by nothing of ours
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=ceil(settings.stop_seconds),
        timeout_keep_alive=HTTP_IDLE_SECONDS,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=text(settings.tls_cert),
        ssl_keyfile=text(settings.tls_key),
        ssl_ca_certs=text(settings.tls_client_ca),
        ssl_cert_reqs=2 if settings.tls_client_ca else 0,
    )


if __name__ == "__main__":
    sys.exit(main())
