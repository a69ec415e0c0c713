"""The number of engines as Serve's own autoscaler asks for it: this runs in Serve's controller.

The policy reads the job database by itself, because it must know of work while there is neither an engine nor a router
to report it.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ray import cloudpickle
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.db.errors import StoreError
from zoetrope.serving.jobs.job import UnfinishedWork
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.router.scaling import Scale, desired_engines

READ_SECONDS = 1.0  # between two reads of the database
STALE_SECONDS = 30.0  # after which what was read says nothing
log = logging.getLogger("zoetrope.host")


class EngineScaling:
    """An autoscaling policy of Ray Serve. While the database does not answer, the engines stay as many as they are."""

    def __init__(self, database_url: str, models: tuple[str, ...], scale: Scale) -> None:
        """``models``: that the engines serve; each model's work counts."""
        self._database_url = database_url
        self._models = models
        self._scale = scale
        self._read: tuple[UnfinishedWork, float] | None = None  # and when
        self._reader: threading.Thread | None = None

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of engines that is wanted now; Serve applies its delays to it."""
        if self._reader is None:
            arguments = weakref.ref(self), self._database_url
            self._reader = threading.Thread(target=_keep_reading, args=arguments, name="queued-work", daemon=True)
            self._reader.start()
        read = self._read
        if read is None or time.monotonic() > read[1] + STALE_SECONDS:
            return context.target_num_replicas, {}
        return desired_engines(read[0], self._scale), {}

    def learn(self, found: Mapping[str, UnfinishedWork]) -> None:
        """Take note of the unfinished work by model, as just read."""
        mine = [work for model, work in found.items() if model in self._models]
        self._read = sum(mine, UnfinishedWork()), time.monotonic()


def _keep_reading(scaling: weakref.ref[EngineScaling], database_url: str) -> None:
    """Read until Serve has dropped the policy."""
    while scaling() is not None:
        try:
            with closing(open_stores(database_url)) as stores:
                while (reader := scaling()) is not None:
                    reader.learn(stores.jobs.unfinished_work())
                    del reader
                    time.sleep(READ_SECONDS)
        except StoreError as error:
            log.warning("the number of engines stays as it is: %s", error)
            time.sleep(READ_SECONDS)


def replicas(settings: Settings, models: tuple[str, ...], scale: Scale, start: int) -> dict[str, Any]:
    """Return the options of a deployment of engines that say how many there are. It starts with ``start`` of them, so
    that a service whose model cannot be loaded says so at once.

    The policy travels as it is, because Serve shows its arguments to everybody, and a database's address may have a
    password.
    """
    if not scale.varies:
        return {"num_replicas": scale.most}
    policy = AutoscalingPolicy.from_serialized_policy_def(
        {"policy_function": f"{EngineScaling.__module__}:{EngineScaling.__name__}"},
        cloudpickle.dumps(EngineScaling(settings.database_url, models, scale)),
    )
    config = AutoscalingConfig(
        min_replicas=scale.least,
        initial_replicas=min(max(start, scale.least), scale.most),
        max_replicas=scale.most,
        upscale_delay_s=settings.scale_up_seconds,
        downscale_delay_s=settings.scale_down_seconds,
        policy=policy,
    )
    return {"autoscaling_config": config}
