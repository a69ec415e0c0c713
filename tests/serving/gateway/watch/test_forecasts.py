"""Forecasts as a gateway reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.jobs.harness import Clock
from zoetrope.serving.gateway.watch.forecasts import FRESH_SECONDS, LOOK_SECONDS, Forecasts
from zoetrope.serving.jobs.forecast_table import JobForecast, ModelForecast
from zoetrope.serving.jobs.open import Stores, open_stores

JOB = JobForecast(10.0, 8.0, 15.0, 2, 6.0, "ahead")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stores(tmp_path: Path, clock: Clock) -> Iterator[Stores]:
    opened = open_stores(f"sqlite://{tmp_path}/jobs.db", clock)
    yield opened
    opened.close()


async def test_a_forecast_ages_and_then_counts_no_longer(stores: Stores, clock: Clock) -> None:
    stores.forecasts.put(ModelForecast("nano", jobs={"vid_a": JOB}))
    forecasts = Forecasts(stores.forecasts, clock)
    clock.now += 2.0
    assert await forecasts.job("nano", "vid_a") == JobForecast(8.0, 6.0, 13.0, 2, 4.0, "ahead")
    assert await forecasts.job("nano", "vid_b") is None and await forecasts.of("other") is None
    clock.now += FRESH_SECONDS - 1.9  # its router is away
    assert await forecasts.of("nano") is None and await forecasts.job("nano", "vid_a") is None


async def test_all_who_ask_within_a_second_share_a_read(stores: Stores, clock: Clock) -> None:
    forecasts = Forecasts(stores.forecasts, clock)
    assert await forecasts.of("nano") is None
    stores.forecasts.put(ModelForecast("nano", gpus=1))
    clock.now += 0.9 * LOOK_SECONDS
    assert await forecasts.of("nano") is None
    clock.now += FRESH_SECONDS + 1.0
    stores.forecasts.put(ModelForecast("nano", gpus=2))
    found = await forecasts.of("nano")  # what it had is too old to be shown meanwhile
    assert found is not None and found.gpus == 2
