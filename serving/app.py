"""`zoetrope serve`: Ray, the Serve application and the gateway under one supervisor process."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from cluster.shelf import Shelf, SnapshotError
from cluster.spread import check_divides
from model.card import transformer_config
from model.directory import read_transformers
from model.presets import ModelError, open_model
from model.tasks import ModelCard
from serving.artifacts import ArtifactError, open_artifacts
from serving.children import Child, ChildError, start_gateways, start_sweeper, stop_all
from serving.jobs.errors import StoreError
from serving.jobs.open import open_stores
from serving.settings import Settings
from serving.startup import StartError, check_keys, check_media, check_tls

Deploy = Callable[[Settings, ModelCard], None]

SNAPSHOT_AGE = timedelta(days=7)  # older ones are of jobs that ended without their snapshots being deleted
KERNELS_VARIABLE = "ZOETROPE_KERNELS"  # kernels.backends.VARIABLE
OBJECT_STORE_BYTES = 256 << 20


class ServeError(Exception):
    """The service cannot start; the message says why and what to do."""


def _deploy(settings: Settings, card: ModelCard) -> None:
    from serving.application import deploy  # which loads Ray, whose settings have to be there before

    deploy(settings, card)


def serve(settings: Settings, deploy: Deploy = _deploy) -> int:
    """Run until SIGINT or SIGTERM; the exit status, 2 where the settings are at fault. ``deploy`` starts the
    application on the Ray that is there by then.

    On stdout one line, ``ready grpc=HOST:PORT http=HOST:PORT``, once a job would be served; all else goes to stderr.
    """
    stop = StopSignal()
    try:
        card = _check(settings)
        with ExitStack() as stack:
            stack.enter_context(_only_service(settings.directory))
            with closing(open_stores(settings.database_url)) as stores:
                # Of a database of our own nobody else can hold a lease; elsewhere those of the dead run out.
                expired = stores.jobs.expire_leases() if settings.own_database else 0
                check_keys(settings, stores)
            artifacts = open_artifacts(settings.artifacts_url)
            artifacts.healthy()
            if not settings.artifact_store:
                artifacts.discard_parts()
            Shelf(str(settings.snapshots)).discard_older(datetime.now(UTC) - SNAPSHOT_AGE)
            shutil.rmtree(settings.scratch, ignore_errors=True)
            if expired:
                _say(f"{expired} unfinished jobs of an earlier run will go on")
            _say("starting Ray")
            stack.enter_context(_ray(settings, settings.directory / "ray-session"))
            stop.listen()  # ray.init puts a handler of its own for SIGTERM
            _say(f"loading {card.name}")
            deploy(settings, card)
            return _run_children(settings, stop)
    except KeyboardInterrupt:
        return 0
    except (ModelError, StoreError, SnapshotError, ArtifactError, StartError, ChildError, ServeError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2


class StopSignal:
    """SIGINT and SIGTERM. While the service starts they interrupt whatever it waits for; later they set an event."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.interrupt = True
        self.listen()

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, *_: object) -> None:
        first = not self.event.is_set()
        self.event.set()
        if first and self.interrupt:
            raise KeyboardInterrupt


def _check(settings: Settings) -> ModelCard:
    """All that can be refused before anything is started."""
    card = open_model(settings.model, settings.family)
    for warning in card.warnings:
        _say(f"warning: {warning}")
    check_tls(settings)
    _check_gangs(settings, card)
    _ask_for_kernels(settings.kernels)
    check_media(settings)
    try:
        settings.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(f"data-dir: {settings.directory} cannot be created: {error.strerror}") from None
    return card


def _check_gangs(settings: Settings, card: ModelCard) -> None:
    """That gangs of this shape can share this model."""
    if settings.ranks % settings.cfg_groups:
        raise ServeError(f"cfg-groups: {settings.cfg_groups} do not divide {settings.ranks} ranks")
    if settings.noise_experts == "apart" and card.boundary is None:
        raise ServeError(f"noise-experts: {card.name} has one network, there is nothing to keep apart")
    try:
        for part in read_transformers(Path(card.directory)):
            check_divides(transformer_config(part), settings.ranks // settings.cfg_groups)
    except ValueError as error:
        raise ServeError(f"ranks: {settings.ranks} cannot share {card.name}: {error}") from None


def _ask_for_kernels(choices: str) -> None:
    """Hand the choice of kernels to every process to come, by the variable that they read."""
    os.environ[KERNELS_VARIABLE] = choices
    if not choices:
        return
    from kernels.backends import parse  # which loads torch

    try:
        parse(choices)
    except ValueError as error:
        raise ServeError(str(error)) from None


@contextmanager
def _only_service(directory: Path) -> Iterator[None]:
    """Hold the data directory's lock; the kernel lets go of it when the process ends, however it ends."""
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServeError(f"data-dir: {directory} is in use by another service") from None
        yield


@contextmanager
def _ray(settings: Settings, note: Path) -> Iterator[None]:
    """A Ray cluster of this machine only, with a token that only our processes know.

    Its files lie outside the data directory, because the paths of its sockets must stay under 107 bytes. ``note`` keeps
    the place, so that the next service removes what a killed one left.
    """
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_SERVE_LOG_TO_STDERR="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    )
    import ray
    from ray import serve as ray_serve

    prefix = str(Path(tempfile.gettempdir()) / "zoetrope-ray-")
    if note.exists() and (left := note.read_text()).startswith(prefix):
        shutil.rmtree(left, ignore_errors=True)
    directory = tempfile.mkdtemp(prefix=Path(prefix).name)
    note.write_text(directory)
    try:
        ray.init(
            num_cpus=max(4, os.cpu_count() or 1, 2 * settings.engines * settings.ranks + 2),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=directory,
            _node_ip_address="127.0.0.1",
        )
        ray_serve.start(proxy_location="Disabled")
        yield
    finally:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        family = psutil.Process().children(recursive=True)  # listed now: without the raylet they are nobody's children
        if ray.is_initialized():
            ray_serve.shutdown()
            ray.shutdown()
        _end(family)
        shutil.rmtree(directory, ignore_errors=True)
        note.unlink()


def _run_children(settings: Settings, stop: StopSignal) -> int:
    """Keep gateways and the sweeper running until ``stop``; one that dies is replaced, gateways at their addresses."""
    children: list[Child] = start_gateways(settings)
    try:
        first = children[0].settings
        children.append(start_sweeper(first))
        stop.interrupt = False
        others = "".join(f" grpc={c.settings.grpc} http={c.settings.http}" for c in children[1:-1])
        print(f"ready grpc={first.grpc} http={first.http}{others}", flush=True)
        while not stop.event.wait(0.1):
            for child in children:
                if message := child.restart_if_dead():
                    _say(message)
        _say("stopping")
        return 0
    finally:
        stop_all(children)


def _end(processes: list[psutil.Process]) -> None:
    """Give processes that should be ending a moment, then kill them."""
    _, left = psutil.wait_procs(processes, timeout=5)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
