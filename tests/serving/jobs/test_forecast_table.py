"""Forecasts in the database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.serving.jobs.harness import Clock
from zoetrope.serving.jobs.forecast_table import JobForecast, ModelForecast, TenantQueue
from zoetrope.serving.jobs.open import open_stores

JOBS = {"vid_a": JobForecast(4.0, 3.0, 6.0), "vid_b": JobForecast(12.5, 9.0, 20.0, 2, 8.0, "ahead")}
MADE = ModelForecast(
    "nano",
    jobs=JOBS,
    tenants={"acme": TenantQueue(3, 1, 42.5)},
    gpus=4,
    engines=2,
    accuracy={"spread": {"queued": [0.5, 1.5, 2.0]}},
    stages={"spilled": 3.0},
)


def test_the_newest_forecast_counts_while_it_is_fresh(tmp_path: Path) -> None:
    clock = Clock()
    with closing(open_stores(f"sqlite://{tmp_path}/jobs.db", clock)) as stores:
        assert stores.forecasts.fresh(5.0) == {}
        stores.forecasts.put(ModelForecast("nano"))
        stores.forecasts.put(MADE)
        stores.forecasts.put(ModelForecast("other"))
        clock.now += 3.0
        found = stores.forecasts.fresh(5.0)
        assert set(found) == {"nano", "other"}
        forecast, age = found["nano"]
        assert (dict(forecast.jobs), forecast.tenants, forecast.gpus) == (JOBS, MADE.tenants, 4)
        assert (forecast.engines, forecast.accuracy, forecast.stages) == (2, MADE.accuracy, MADE.stages)
        assert forecast.written_at == 1_000.0 and age == pytest.approx(3.0)
        clock.now += 3.0
        assert stores.forecasts.fresh(5.0) == {}


def test_a_job_that_is_new_is_put_behind_those_ahead_of_it() -> None:
    assert MADE.eta_of_new(10.0, 0) == pytest.approx((7.5, 2.5, 10.0))  # on one engine of two GPUs, nothing ahead
    assert MADE.eta_of_new(10.0, 3)[0] == pytest.approx(1.5 * (8.0 + 5.0))
    unknown = ModelForecast("nano", tenants=MADE.tenants, gpus=4, engines=2)
    assert unknown.eta_of_new(10.0, 3)[0] == pytest.approx(42.5 / 4 + 5.0)
