"""The policy that Serve's controller asks for the number of engines, as Serve gets it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.config import DeploymentConfig

from tests.serving.gateway.harness import until
from tests.serving.jobs.harness import LIMITS, new_job
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import UnfinishedWork
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.ray_host import autoscaling
from zoetrope.serving.ray_host.autoscaling import EngineScaling, replicas
from zoetrope.serving.router.scaling import Scale, scales


def context(target: int) -> Any:
    return SimpleNamespace(target_num_replicas=target)


def test_without_bounds_apart_the_number_is_fixed() -> None:
    settings = Settings(engines=("3",))
    assert replicas(settings, ("nano",), scales(settings)["Engine"], 3) == {"num_replicas": 3}


def test_the_policy_arrives_whole_and_shows_no_address() -> None:
    database = "postgresql://user:secret@host/base"
    settings = Settings(engines=("2",), min_engines=0, max_engines=4, scale_down_seconds=7.0, database=database)
    config = replicas(settings, ("nano",), scales(settings)["Engine"], 2)["autoscaling_config"]
    travelled = DeploymentConfig.from_proto_bytes(DeploymentConfig(autoscaling_config=config).to_proto_bytes())
    arrived = travelled.autoscaling_config
    assert arrived is not None
    assert (arrived.min_replicas, arrived.initial_replicas, arrived.max_replicas) == (0, 2, 4)
    assert (arrived.upscale_delay_s, arrived.downscale_delay_s) == (10.0, 7.0)
    assert "secret" not in json.dumps(arrived.model_dump(mode="json"), default=str)
    policy = arrived.policy.get_policy()
    assert isinstance(policy, EngineScaling)
    policy.learn({"nano": UnfinishedWork(5, 700.0), "other": UnfinishedWork(5, 9e9)})
    policy._reader = SimpleNamespace()  # type: ignore[assignment]  # there is no such database to read
    assert policy(context(1)) == (3, {}), "700 s of the own model at 300 s for each engine"


def test_the_policy_reads_the_work_from_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscaling, "READ_SECONDS", 0.01)
    settings = Settings(data_dir=tmp_path)
    stores = open_stores(settings.database_url)
    policies = [EngineScaling(settings.database_url, ("nano",), Scale(0, 4, target_seconds=10.0))]
    assert policies[0](context(2)) == (2, {}), "nothing is known yet"
    until(lambda: policies[0](context(2)) == (0, {}))
    job = stores.jobs.create(new_job("a", price=25.0), LIMITS)
    until(lambda: policies[0](context(0)) == (3, {}))
    stores.jobs.request_cancel(job.id, job.owner)
    until(lambda: policies[0](context(3)) == (0, {}))
    reader = policies[0]._reader
    assert reader is not None
    policies.clear()
    reader.join(10)
    assert not reader.is_alive(), "it ends with the policy"
    stores.close()


def test_what_is_old_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = EngineScaling("sqlite:////nowhere", ("nano",), Scale(0, 4))
    policy._reader = SimpleNamespace()  # type: ignore[assignment]
    policy.learn({})
    assert policy(context(2)) == (0, {})
    monkeypatch.setattr(autoscaling, "STALE_SECONDS", -1.0)
    assert policy(context(2)) == (2, {})
