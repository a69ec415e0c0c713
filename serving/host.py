"""The process that owns Ray: ``python -m serving.host`` with the settings as JSON in ZOETROPE_SETTINGS.

Prints ``ready`` once a job would be served, and signs of life while Ray and the application give some: it falls silent
with them, and ends where they are lost, for only another cluster helps then. Ends at SIGTERM in order, and at once when
its stdin does, for then the supervisor has died and another may be about to start.
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

from model.presets import ModelError, open_model
from model.tasks import ModelCard
from serving import cluster_log
from serving.jobs.errors import StoreError
from serving.jobs.open import open_stores
from serving.marks import MARK, end_marked
from serving.pulse import BEAT_SECONDS, beat
from serving.ray_session import clear_session, new_session
from serving.settings import Settings
from serving.startup import StartError, read_settings
from serving.stopping import when_stdin_ends

Deploy = Callable[[Settings, ModelCard], None]

OBJECT_STORE_BYTES = 256 << 20
ROUTER_SECONDS = 120.0  # more than Serve takes to find out that one hangs, and to start another
LOOK_SECONDS = 0.2
RAYS_OWN = ("gcs_server", "raylet")
END_SECONDS = 5.0
LOST = 3  # the exit status where Ray or the application is lost
log = logging.getLogger("zoetrope.host")


def _deploy(settings: Settings, card: ModelCard) -> None:
    from serving.application import deploy  # which loads Ray, whose settings have to be there before

    deploy(settings, card)


def main(deploy: Deploy = _deploy) -> int:
    """The exit status. ``deploy`` starts the application on the Ray that is there by then."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    when_stdin_ends(_end_at_once)
    try:
        settings = read_settings()
        card = open_model(settings.model, settings.family)
        _take_over(settings)
        _say("starting Ray")
        with _ray(settings):
            stop = _Stop()
            watch = _Watch()
            try:
                _say(f"loading {card.name}")
                deploy(settings, card)
                watch.deployed.set()
                stop.later()
                print("ready", flush=True)
                stop.event.wait()
                return 0
            finally:
                watch.over.set()
    except (ModelError, StartError) as error:
        _say(f"error: {error}")
        return 2
    except (StoreError, OSError) as error:  # a database that is away, a full disk
        _say(f"error: {error}")
        return LOST


class _Stop:
    """SIGTERM and SIGINT: while the cluster starts there is nothing to put away, later things end in order."""

    def __init__(self) -> None:
        self.event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # ray.init puts a handler of its own for SIGTERM
            signal.signal(number, lambda *_: os._exit(0))

    def later(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.event.set())


class _Watch:
    """Looks after Ray and, once it is deployed, the application, from threads of its own."""

    def __init__(self) -> None:
        self.deployed, self.over = threading.Event(), threading.Event()
        self._own = {c.name(): c for c in psutil.Process().children() if c.name() in RAYS_OWN}
        self._answered = time.monotonic()
        threading.Thread(target=self._look, name="look", daemon=True).start()
        threading.Thread(target=self._ask, name="ask", daemon=True).start()

    def _ask(self) -> None:
        """Ask everything that has to be there; hangs with whoever is asked, and then there are no signs of life."""
        from serving.application import alive, router_answers

        while not self.over.wait(BEAT_SECONDS):
            try:
                well = alive()
            except Exception as error:
                log.warning("Ray does not answer: %s", type(error).__name__)
                well = False
            if well and self.deployed.is_set():
                if router_answers(BEAT_SECONDS):
                    self._answered = time.monotonic()
                elif time.monotonic() - self._answered > ROUTER_SECONDS:
                    self._lost(f"no router has answered for {ROUTER_SECONDS:g} s")
            else:
                self._answered = time.monotonic()
            if well:
                beat()

    def _look(self) -> None:
        """Find out at once when one of Ray's processes dies, which its callers do after a minute."""
        while not self.over.wait(LOOK_SECONDS):
            for name, process in self._own.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.status() != psutil.STATUS_ZOMBIE:
                        continue
                self._lost(f"Ray's {name} died")

    def _lost(self, what: str) -> None:
        """End this process: the supervisor ends what is left of the cluster and starts another."""
        if not self.over.is_set():
            _say(what)
            os._exit(LOST)


def _take_over(settings: Settings) -> None:
    """Clear up after the last cluster, of which no process is left.

    Raises:
        StoreError.
    """
    clear_session(settings)
    shutil.rmtree(settings.scratch, ignore_errors=True)
    if settings.own_database:  # nobody else can hold a lease; elsewhere those of the dead run out
        with contextlib.closing(open_stores(settings.database_url)) as stores:
            if expired := stores.jobs.expire_leases():
                _say(f"{expired} unfinished jobs will go on")


@contextlib.contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    """A Ray cluster of this machine only, with a token that only our processes know."""
    settings.logs.mkdir(exist_ok=True)
    third = max(1, int(settings.silent_seconds * 1000 / 3))
    os.environ.update(
        {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            # Else Ray takes the machine's own address for 127.0.0.1, and listens on every interface for its sake.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # A raylet that is stopped or hangs is given up after about as long as everything else.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": str(third),
            "RAY_health_check_failure_threshold": "3",
            cluster_log.VARIABLE: str(cluster_log.log_of(settings.logs)),
        }
    )
    import ray
    from ray import serve as ray_serve

    directory = new_session(settings)
    try:
        ray.init(
            num_cpus=max(4, os.cpu_count() or 1, 2 * settings.engines * settings.ranks + 2),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            runtime_env={"worker_process_setup_hook": "serving.worker_setup.set_up"},
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


def _end_at_once() -> None:
    mark = os.environ.get(MARK)
    end = time.monotonic() + END_SECONDS
    while mark and not end_marked(mark) and time.monotonic() < end:
        time.sleep(0.05)
    os._exit(LOST)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
