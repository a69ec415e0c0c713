"""The process that owns Ray: ``python -m zoetrope.serving.ray_host.main`` with the settings as JSON in
ZOETROPE_SETTINGS.

Prints ``ready`` once jobs can run, and heartbeats for as long as Ray and the application respond. Exits if they are
lost, because only a new cluster helps then. Stops in order on SIGTERM, and at once when stdin closes: the supervisor
has died, and another may be about to start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.config.heartbeat import BEAT_SECONDS, beat
from zoetrope.serving.config.logs import set_up
from zoetrope.serving.config.process_marks import MARK, kill_all_marked
from zoetrope.serving.config.served_models import ServedModels, open_models
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.shutdown import when_stdin_ends
from zoetrope.serving.config.startup_checks import StartError, read_settings
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.ray_host import cluster_log
from zoetrope.serving.ray_host.session import clear_session, new_session
from zoetrope.serving.router.scaling import scales

Deploy = Callable[[Settings, ServedModels], None]

OBJECT_STORE_BYTES = 256 << 20
MIN_ROUTER_SECONDS = 120.0  # longer than Serve takes to notice that a router hangs and to replace it
POLL_SECONDS = 0.2
RAY_PROCESSES = ("gcs_server", "raylet")
KILL_SECONDS = 5.0
LOST = 3  # exit status if Ray or the application is lost
log = logging.getLogger("zoetrope.host")


def _deploy(settings: Settings, models: ServedModels) -> None:
    from zoetrope.serving.ray_host.application import deploy  # loads Ray, whose settings must be set before

    deploy(settings, models)


def main(deploy: Deploy = _deploy) -> int:
    """Run until a signal; returns the exit status. ``deploy`` starts the application on the running Ray."""
    when_stdin_ends(_exit_at_once)
    try:
        settings = read_settings()
        set_up(settings.log_format)
        models = open_models(settings)
        _clean_up(settings)
        _say("starting Ray")
        with _ray(settings):
            stop = _StopEvent()
            watch = _Watchdog(max(MIN_ROUTER_SECONDS, 3 * settings.silent_seconds))
            try:
                _say(f"loading {models.default.name}")
                deploy(settings, models)
                watch.deployed.set()
                stop.in_order()
                print("ready", flush=True)
                stop.event.wait()
                return 0
            finally:
                watch.over.set()
    except (ModelError, StartError) as error:
        _say(f"error: {error}")
        return 2
    except (StoreError, OSError) as error:  # an unreachable database, a full disk
        _say(f"error: {error}")
        return LOST


class _StopEvent:
    """Set by SIGTERM and SIGINT. While the cluster starts, they exit at once: there is no state to save yet."""

    def __init__(self) -> None:
        self.event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # ray.init has replaced the handler of SIGTERM
            signal.signal(number, lambda *_: os._exit(0))

    def in_order(self) -> None:
        """From now on, set the event instead of exiting."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.event.set())


class _Watchdog:
    """Watches Ray and, once deployed, the application, from its own threads."""

    def __init__(self, router_seconds: float) -> None:
        self.deployed, self.over = threading.Event(), threading.Event()
        self._router_seconds = router_seconds
        self._processes = {c.name(): c for c in psutil.Process().children() if c.name() in RAY_PROCESSES}
        self._answered = time.monotonic()
        threading.Thread(target=self._watch_processes, name="watch-processes", daemon=True).start()
        threading.Thread(target=self._probe, name="probe", daemon=True).start()

    def _probe(self) -> None:
        """Probe everything that must run, and send heartbeats. If a probe hangs, the heartbeats stop."""
        from zoetrope.serving.ray_host.application import alive, router_answers

        while not self.over.wait(BEAT_SECONDS):
            try:
                healthy = alive()
            except Exception as error:
                log.warning("Ray does not answer: %s", type(error).__name__)
                healthy = False
            if healthy and self.deployed.is_set():
                if router_answers(BEAT_SECONDS):
                    self._answered = time.monotonic()
                elif time.monotonic() - self._answered > self._router_seconds:
                    self._lost(f"no router has answered for {self._router_seconds:g} s")
            else:
                self._answered = time.monotonic()
            if healthy:
                beat()

    def _watch_processes(self) -> None:
        """Notice at once if one of Ray's processes dies; its callers take a minute."""
        while not self.over.wait(POLL_SECONDS):
            for name, process in self._processes.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.status() != psutil.STATUS_ZOMBIE:
                        continue
                self._lost(f"Ray's {name} died")

    def _lost(self, what: str) -> None:
        """Exit: the supervisor kills what is left of the cluster and starts a new one."""
        if not self.over.is_set():
            _say(what)
            os._exit(LOST)


def _clean_up(settings: Settings) -> None:
    """Remove what the last cluster left behind; none of its processes is alive.

    Raises:
        StoreError: the job database cannot be reached.
    """
    clear_session(settings)
    shutil.rmtree(settings.scratch, ignore_errors=True)
    if settings.own_database:  # no other service can hold a lease; with a shared database, stale ones expire
        with contextlib.closing(open_stores(settings.database_url, migrate=settings.may_migrate)) as stores:
            if expired := stores.jobs.expire_leases():
                _say(f"{expired} unfinished jobs will resume")


@contextlib.contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    """Run a Ray cluster on this machine only, with a token that only our processes know."""
    settings.logs.mkdir(exist_ok=True)
    third = max(1, int(settings.silent_seconds * 1000 / 3))
    os.environ.update(
        {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a hanging replica does not stop when asked
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            # Otherwise Ray replaces 127.0.0.1 by the machine's own address and listens on every interface.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Give up on a stopped or hanging raylet after about as long as on everything else.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": str(third),
            "RAY_health_check_failure_threshold": "3",
            cluster_log.VARIABLE: str(cluster_log.log_path(settings.logs)),
        }
    )
    import ray
    from ray import serve as ray_serve

    directory = new_session(settings)
    ranks = sum(scale.most * scale.gpus for scale in scales(settings).values())
    try:
        ray.init(
            num_cpus=max(4, os.cpu_count() or 1, 2 * ranks + 2),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            runtime_env={"worker_process_setup_hook": "zoetrope.serving.ray_host.worker_setup.set_up"},
            _temp_dir=directory,
            _node_ip_address="127.0.0.1",
        )
        ray_serve.start(proxy_location="Disabled")
    except Exception as error:
        raise StartError(f"Ray did not start: {' '.join(str(error).split())[:600]}") from None
    try:
        yield
    finally:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        ray_serve.shutdown()
        ray.shutdown()


def _exit_at_once() -> None:
    if mark := os.environ.get(MARK):
        kill_all_marked(mark, KILL_SECONDS)
    os._exit(LOST)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
