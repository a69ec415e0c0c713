"""What a gateway tells of the database, and what it tells without one."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest

from tests.serving.jobs.harness import LIMITS, new_job
from zoetrope.serving.gateway.core.metrics import metrics_registry
from zoetrope.serving.gateway.watch.liveness import Liveness
from zoetrope.serving.jobs.open import open_stores


def test_what_processes_counted_is_shown_while_the_database_does_not_answer(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite://{tmp_path}/jobs.db")
    stores.jobs.create(new_job("a"), LIMITS)
    registry = metrics_registry(stores.jobs, Liveness(stores.jobs, ["nano"]), stores.forecasts, {})
    text = generate_latest(registry).decode()
    assert 'zoetrope_jobs{state="queued"} 1.0' in text and "zoetrope_store_errors_total{" in text
    stores.close()
    text = generate_latest(registry).decode()
    assert "zoetrope_jobs{" not in text and "zoetrope_store_errors_total{" in text
