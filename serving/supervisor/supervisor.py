"""The supervisor behind `zoetrope serve`: keeps the Ray host, the gateways and the sweeper running."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

from zoetrope.cluster.telemetry.shared import start_sharing
from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.config.addresses import AddressError, bind_problem, next_address
from zoetrope.serving.config.deployment_checks import (
    KERNELS_VARIABLE,
    check_gangs,
    check_kernels,
    check_one_machine,
)
from zoetrope.serving.config.hashing import hash_at_start
from zoetrope.serving.config.process_marks import kill_all_marked
from zoetrope.serving.config.served_models import ServedModels, open_models
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.startup_checks import StartError, check_keys, check_media, check_tls, make_directory
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.ray_host.cluster_log import rotate as rotate_log
from zoetrope.serving.ray_host.session import clear_session
from zoetrope.serving.storage.store import ArtifactError, open_artifacts
from zoetrope.serving.supervisor.children import POLL_SECONDS, Child, ChildError, stop_all

T = TypeVar("T")
MARKS = r"zoetrope-[0-9a-f]{16}/"
MAX_POLL_SECONDS = 1.0  # a longer gap between two polls means that this process itself was stopped
# For engines to snapshot their segments (`serving.ray_host.application.DRAIN_SECONDS`), and Ray to stop.
HOST_STOP_SECONDS = 75.0
KILL_SECONDS = 10.0  # for killed processes to be gone
SPARE_SECONDS = 5.0  # for a gateway to end, beside what its calls get
LOG_CHECK_SECONDS = 10.0  # between two checks of the log's size


class ServeError(Exception):
    """The service cannot start; the message says why and what to do."""


def serve(settings: Settings, host: str = "zoetrope.serving.ray_host.main") -> int:
    """Run the service until SIGINT or SIGTERM. A second signal kills all processes at once.

    Prints one line on stdout, ``ready grpc=HOST:PORT http=HOST:PORT``, once jobs can run; all else goes to stderr.

    Args:
        host: the module that starts Ray and the application.

    Returns:
        The exit status: 2 if the settings are at fault.
    """
    stop = StopSignal()
    try:
        with ExitStack() as stack:
            mark = _run_unless_stopped(lambda: _prepare(settings, stack), stop)
            return _supervise(settings, mark, host, stop)
    except (ModelError, AddressError, StoreError, ArtifactError, StartError, ChildError, ServeError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2


class StopSignal:
    """Counts SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, *_: object) -> None:
        self.count += 1

    @property
    def force(self) -> bool:
        """Tell whether a second signal asked to stop at once."""
        return self.count > 1


def _run_unless_stopped(work: Callable[[], T], stop: StopSignal) -> T:
    """Return the result of ``work``, which may wait for a disk or a database. A signal exits the process at once:
    nothing has been started that would need an orderly stop."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="prepare", daemon=True).start()
    while not wait([outcome], POLL_SECONDS).done:
        if stop.count:
            os._exit(0)
    return outcome.result()


def _prepare(settings: Settings, stack: ExitStack) -> str:
    """Check everything that can be refused before a process starts; returns the mark for the processes to come."""
    models = _check(settings)
    make_directory(settings)
    mark = stack.enter_context(_lock_directory(settings.directory))
    start_sharing(settings.directory / "metrics")
    addresses = [("grpc", settings.grpc), ("http", settings.http)]
    if settings.management:
        places = range(settings.gateways + 1)
        addresses += [("management", next_address(settings.management, "management", place)) for place in places]
    for field, address in addresses:
        if problem := bind_problem(address, field):
            raise ServeError(f"{field}: {problem}")
    with closing(open_stores(settings.database_url, migrate=settings.may_migrate)) as stores:
        check_keys(settings, stores)
    artifacts = open_artifacts(settings.artifacts_url)
    artifacts.healthy()
    if not settings.artifact_store:
        artifacts.discard_parts()
    for card in models:
        for warning in card.warnings:
            _say(f"warning: {warning}")
        hash_at_start(card)
    return mark


def _supervise(settings: Settings, mark: str, host: str, stop: StopSignal) -> int:
    supervisor = Supervisor(settings, mark, host)
    last = checked = time.monotonic()
    try:
        while not stop.count:
            now = time.monotonic()
            supervisor.poll(min(now - last, MAX_POLL_SECONDS))
            last = now
            if now - checked > LOG_CHECK_SECONDS:
                rotate_log(settings.logs)
                checked = now
            time.sleep(POLL_SECONDS)
        _say("stopping")
        return 0
    finally:
        supervisor.stop(lambda: stop.force)


def _check(settings: Settings) -> ServedModels:
    """Check the settings, without touching the data directory."""
    models = open_models(settings)
    check_tls(settings)
    check_one_machine(settings)
    check_gangs(settings, models)
    _export_kernels(settings.kernels)
    check_media(settings)
    return models


def _export_kernels(choices: str) -> None:
    """Pass the choice of kernels to every process to come, in the environment variable that they read."""
    os.environ[KERNELS_VARIABLE] = choices
    check_kernels(choices)


@contextmanager
def _lock_directory(directory: Path) -> Iterator[str]:
    """Hold the data directory's lock, which the kernel releases however this process ends.

    The lock file stores the mark of the processes that the holder starts, so that the next service can kill survivors.
    """
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServeError(f"data-dir: {directory} is in use by another service") from None
        file.seek(0)
        before = file.read()
        if re.fullmatch(MARKS, before) and not kill_all_marked(before, KILL_SECONDS):
            raise ServeError(f"data-dir: {directory}: processes of an earlier service cannot be killed")
        mark = f"zoetrope-{secrets.token_hex(8)}/"
        try:
            file.truncate(0)
            file.write(mark)
            file.flush()
        except OSError as error:
            raise ServeError(f"data-dir: cannot write to {directory}: {error.strerror}") from None
        yield mark


class Supervisor:
    """Keeps the Ray host, the gateways and the sweeper running without blocking on any of them."""

    def __init__(self, settings: Settings, mark: str, host: str) -> None:
        self._settings = settings
        self._mark = mark
        free = {field: getattr(settings, field).rpartition(":")[0] + ":0" for field in ("grpc", "http")}
        others = [settings.model_copy(update=free) for _ in range(settings.gateways - 1)]
        seconds = settings.drain_seconds + settings.stop_seconds + SPARE_SECONDS
        self._gateways = [
            Child(
                "zoetrope.serving.gateway.main",
                _managed(wanted, number),
                "gateway",
                f"{mark}gateway-{number}/",
                seconds,
            )
            for number, wanted in enumerate([settings, *others])
        ]
        self._host = Child(host, settings, "Ray host", f"{mark}host/", HOST_STOP_SECONDS)
        self._children = [self._host, *self._gateways]
        self._swept = self._ready = False

    def poll(self, elapsed: float) -> None:
        """Start and restart what is due; prints `ready` once everything is.

        Raises:
            ChildError: a process was never ready and will not be.
        """
        for child in self._children:
            if message := child.poll(elapsed):
                _say(message)
        for gateway in self._gateways:
            if gateway.ready_line is not None:  # a restart takes the same ports
                gateway.settings = gateway.settings.model_copy(update=json.loads(gateway.ready_line))
        if not self._swept and self._gateways[0].ready_line is not None:
            http = self._gateways[0].settings.http  # the webhooks that the sweeper sends contain this address
            first = _managed(self._settings.model_copy(update={"http": http}), len(self._gateways))
            self._children.append(Child("zoetrope.serving.sweeper.main", first, "sweeper", f"{self._mark}sweeper/"))
            self._swept = True
        if not self._ready and self._swept and all(child.ready_line is not None for child in self._children):
            print("ready", *(f"grpc={g.settings.grpc} http={g.settings.http}" for g in self._gateways), flush=True)
            self._ready = True

    def stop(self, force: Callable[[], bool]) -> None:
        """Stop all processes; kill them as soon as ``force`` returns True."""
        stop_all(self._children, force)
        kill_all_marked(self._mark, KILL_SECONDS)
        clear_session(self._settings)


def _managed(settings: Settings, place: int) -> Settings:
    """Give one of the processes its own management port: that of the settings, or one of the next."""
    if not settings.management:
        return settings
    return settings.model_copy(update={"management": next_address(settings.management, "management", place)})


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
