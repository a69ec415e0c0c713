"""`zoetrope serve`: the supervisor, which keeps Ray's host, the gateways and the sweeper running."""

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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cluster.shelf import Shelf, SnapshotError
from cluster.spread import check_divides
from model.card import transformer_config
from model.directory import read_transformers
from model.presets import ModelError, open_model
from model.tasks import ModelCard
from serving.addresses import bind_problem
from serving.artifacts import ArtifactError, open_artifacts
from serving.children import LOOK_SECONDS, Child, ChildError, stop_all
from serving.cluster_log import bound as bound_log
from serving.jobs.errors import StoreError
from serving.jobs.open import open_stores
from serving.marks import end_marked
from serving.ray_session import clear_session
from serving.settings import Settings
from serving.startup import StartError, check_keys, check_media, check_tls, make_directory

T = TypeVar("T")
MARKS = r"zoetrope-[0-9a-f]{16}/"
SNAPSHOT_AGE = timedelta(days=7)  # older ones are of jobs that ended without their snapshots being deleted
KERNELS_VARIABLE = "ZOETROPE_KERNELS"  # kernels.backends.VARIABLE
LATE_SECONDS = 1.0  # more than this between two looks, and it was this process that stood still
HOST_STOP_SECONDS = 75.0  # for engines to put their segments away (`serving.application.DRAIN_SECONDS`), and Ray to end
END_SECONDS = 10.0  # for killed processes to be gone
LOGS_SECONDS = 10.0  # between two looks at how large they are


class ServeError(Exception):
    """The service cannot start; the message says why and what to do."""


def serve(settings: Settings, host: str = "serving.host") -> int:
    """Run until SIGINT or SIGTERM; the exit status, 2 where the settings are at fault. A second signal ends all
    processes at once. ``host`` is the module that starts Ray and the application.

    On stdout one line, ``ready grpc=HOST:PORT http=HOST:PORT``, once a job would be served; all else goes to stderr.
    """
    stop = StopSignal()
    try:
        with ExitStack() as stack:
            mark = _unless_stopped(lambda: _prepare(settings, stack), stop)
            return _supervise(settings, mark, host, stop)
    except (ModelError, StoreError, SnapshotError, ArtifactError, StartError, ChildError, ServeError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2


class StopSignal:
    """How often SIGINT and SIGTERM came."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, *_: object) -> None:
        self.count += 1

    @property
    def hurry(self) -> bool:
        return self.count > 1


def _unless_stopped(work: Callable[[], T], stop: StopSignal) -> T:
    """What ``work`` gives, which may wait for a disk or a database. Should a signal come before, the process ends,
    for there is nothing yet that it would have to end in order."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="prepare", daemon=True).start()
    while not wait([outcome], LOOK_SECONDS).done:
        if stop.count:
            os._exit(0)
    return outcome.result()


def _prepare(settings: Settings, stack: ExitStack) -> str:
    """Everything that can be refused before anything is started; the mark of all processes to come."""
    card = _check(settings)
    make_directory(settings)
    mark = stack.enter_context(_only_service(settings.directory))
    for field, address in (("grpc", settings.grpc), ("http", settings.http)):
        if problem := bind_problem(address, field):
            raise ServeError(f"{field}: {problem}")
    with closing(open_stores(settings.database_url)) as stores:
        check_keys(settings, stores)
    artifacts = open_artifacts(settings.artifacts_url)
    artifacts.healthy()
    if not settings.artifact_store:
        artifacts.discard_parts()
    Shelf(str(settings.snapshots)).discard_older(datetime.now(UTC) - SNAPSHOT_AGE)
    for warning in card.warnings:
        _say(f"warning: {warning}")
    return mark


def _supervise(settings: Settings, mark: str, host: str, stop: StopSignal) -> int:
    supervisor = Supervisor(settings, mark, host)
    last = bounded = time.monotonic()
    try:
        while not stop.count:
            now = time.monotonic()
            supervisor.look(min(now - last, LATE_SECONDS))
            last = now
            if now - bounded > LOGS_SECONDS:
                bound_log(settings.logs)
                bounded = now
            time.sleep(LOOK_SECONDS)
        _say("stopping")
        return 0
    finally:
        supervisor.stop(lambda: stop.hurry)


def _check(settings: Settings) -> ModelCard:
    """The settings alone."""
    card = open_model(settings.model, settings.family)
    check_tls(settings)
    _check_gangs(settings, card)
    _ask_for_kernels(settings.kernels)
    check_media(settings)
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
def _only_service(directory: Path) -> Iterator[str]:
    """Hold the data directory's lock; the kernel lets go of it when the process ends, however it ends. The file keeps
    the mark of the processes that its holder starts: those that outlived the last one are ended."""
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServeError(f"data-dir: {directory} is in use by another service") from None
        file.seek(0)
        before = file.read()
        if re.fullmatch(MARKS, before) and not _end_all(before):
            raise ServeError(f"data-dir: {directory}: processes of an earlier service do not end")
        mark = f"zoetrope-{secrets.token_hex(8)}/"
        try:
            file.truncate(0)
            file.write(mark)
            file.flush()
        except OSError as error:
            raise ServeError(f"data-dir: {directory} cannot be written: {error.strerror}") from None
        yield mark


def _end_all(mark: str) -> bool:
    """Whether all processes of that mark are gone, soon after they were killed."""
    end = time.monotonic() + END_SECONDS
    while not end_marked(mark):
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_SECONDS)
    return True


class Supervisor:
    """Keeps the host of Ray, the gateways and the sweeper running; none of them is waited for."""

    def __init__(self, settings: Settings, mark: str, host: str) -> None:
        self._settings = settings
        self._mark = mark
        free = {field: getattr(settings, field).rpartition(":")[0] + ":0" for field in ("grpc", "http")}
        others = [settings.model_copy(update=free) for _ in range(settings.gateways - 1)]
        self._gateways = [
            Child("serving.gateway.main", wanted, "gateway", f"{mark}gateway-{number}/")
            for number, wanted in enumerate([settings, *others])
        ]
        self._host = Child(host, settings, "host of Ray", f"{mark}host/", HOST_STOP_SECONDS)
        self._children = [self._host, *self._gateways]
        self._swept = self._ready = False

    def look(self, elapsed: float) -> None:
        """Do what is due.

        Raises:
            ChildError: one of them never worked, and never will.
        """
        for child in self._children:
            if message := child.look(elapsed):
                _say(message)
        for gateway in self._gateways:
            if gateway.said is not None:  # a restart takes the same ports
                gateway.settings = gateway.settings.model_copy(update=json.loads(gateway.said))
        if not self._swept and self._gateways[0].said is not None:
            first = self._gateways[0].settings  # its address is in what the sweeper sends
            self._children.append(Child("serving.sweeper.main", first, "sweeper", f"{self._mark}sweeper/"))
            self._swept = True
        if not self._ready and self._swept and all(child.said is not None for child in self._children):
            print("ready", *(f"grpc={g.settings.grpc} http={g.settings.http}" for g in self._gateways), flush=True)
            self._ready = True

    def stop(self, hurry: Callable[[], bool]) -> None:
        stop_all(self._children, hurry)
        _end_all(self._mark)
        clear_session(self._settings)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
