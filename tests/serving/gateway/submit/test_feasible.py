"""Jobs have a price when they are submitted, and what cannot be done is refused at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from zoetrope.cluster.planning.step_costs import Load
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.tasks import InvalidRequest
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.submit import feasible
from zoetrope.serving.gateway.submit.feasible import DeadlineOutOfReach
from zoetrope.serving.gateway.submit.media import ClientMedia
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.prices import this_device
from zoetrope.serving.gateway.submit.submission import Submission, Submitter, Validated
from zoetrope.serving.gateway.watch.forecasts import Forecasts
from zoetrope.serving.jobs.errors import BacklogFull
from zoetrope.serving.jobs.forecast_table import JobForecast, ModelForecast, TenantQueue
from zoetrope.serving.jobs.job import EngineRow, Job
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.jobs.usage import usage_of
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.hooks import Moderation
from zoetrope.serving.router.pricing import EngineCosts
from zoetrope.serving.storage.store import open_artifacts

NANO = find_model("nano")
US = Principal("us", key_id="key")
STEP = 0.5  # seconds of every step of the engine


def engine(**fields: Any) -> EngineRow:
    """An engine whose steps were measured."""
    costs = EngineCosts.prior(NANO, "cpu")
    for _ in range(20):
        costs.step.observe([Load(300, 2)], STEP)
    return EngineRow("e", "nano", 1, 1, time.time(), costs={**costs.to_dict(), **fields})


@dataclass
class Counter:
    """Where requests come in, and what they are stored in."""

    submitter: Submitter
    stores: Stores

    async def submit(self, options: Options | None = None, who: Principal = US, **fields: Any) -> Job:
        return await self.submitter.submit(self._order(options, fields), who)

    async def validate(self, options: Options | None = None, who: Principal = US, **fields: Any) -> Validated:
        return await self.submitter.validate(self._order(options, fields), who)

    def _order(self, options: Options | None, fields: dict[str, Any]) -> Submission:
        task = {"kind": "text_to_video", "prompt": "a red circle"}
        return Submission({"task": task, "frames": 17, **fields}, options or Options())


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    settings = Settings(data_dir=tmp_path, gpu_hour_price=3.6, max_queued_gpu_seconds=100.0)
    stores, sandbox = open_stores(settings.database_url), Sandbox()
    media = ClientMedia(settings, stores.media, stores.jobs, open_artifacts(settings.artifacts_url), sandbox, Guard())
    models, moderation = ServedModels([NANO]), Moderation(settings)
    forecasts = Forecasts(stores.forecasts)
    yield Counter(
        Submitter(settings, models, stores.jobs, media, moderation, Guard(), stores.adapters, forecasts), stores
    )
    sandbox.close()
    stores.close()


async def test_before_an_engine_is_there_the_price_is_the_rooflines(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await counter.validate(steps=10)
    assert found.price is not None and found.price.total > 0
    assert not found.quote.calibrated and found.outlook is None
    job = await counter.submit(Options(deadline_at=time.time() + 0.5), steps=1_000)
    assert job.price > 0, "which refuses nothing that a faster machine might do"
    monkeypatch.setattr(feasible, "FAR_OFF", job.price / 2)
    with pytest.raises(InvalidRequest, match=r"^deadline: cannot be met: the job takes \S+ s by itself"):
        await counter.submit(Options(deadline_at=time.time() + 0.5), steps=1_000)


async def test_a_job_is_priced_by_what_its_engine_has_learned(counter: Counter) -> None:
    counter.stores.jobs.put_engine(engine())
    found = await counter.validate(steps=10)
    assert found.price is not None and found.quote.calibrated
    assert found.price.denoising == pytest.approx(10 * STEP, rel=0.1)
    job = await counter.submit(steps=10)
    assert job.price == pytest.approx(found.price.total)
    usage = usage_of(replace(job, used=4.0))
    assert usage["price_gpu_seconds"] == pytest.approx(job.price, abs=1e-3)
    assert usage["estimated_cost"] == pytest.approx(job.price / 1_000, rel=1e-3), "3.6 an hour"
    assert usage["used_gpu_seconds"] == 4.0
    twice = await counter.validate(steps=20)
    assert twice.price is not None and twice.price.denoising == pytest.approx(2 * found.price.denoising)


async def test_validation_creates_nothing_and_refuses_the_same(counter: Counter) -> None:
    counter.stores.jobs.put_engine(engine())
    await counter.validate(steps=10)
    with pytest.raises(InvalidRequest, match="steps: 0 must be from 1"):
        await counter.validate(steps=0)
    with pytest.raises(InvalidRequest, match="deadline: is not in the future"):
        await counter.validate(Options(deadline_at=time.time() - 5))
    with pytest.raises(InvalidRequest, match="priority: 12 must be from 0 to 9"):
        await counter.validate(Options(priority=12))
    assert counter.stores.jobs.counts()["queued"] == 0
    await counter.submit(steps=80)
    for call in (counter.validate, counter.submit):
        with pytest.raises(BacklogFull) as caught:
            await call(steps=80)
    error = as_api_error(caught.value)
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "BACKLOG_FULL")
    assert error.retry_seconds is not None and 20 < error.retry_seconds < 40, "one GPU works off the surplus"


async def test_a_deadline_that_a_job_misses_by_itself(counter: Counter) -> None:
    counter.stores.jobs.put_engine(engine())
    with pytest.raises(
        InvalidRequest, match=r"^deadline: cannot be met: the job takes 1\S+ s by itself, which is \S+ s"
    ):
        await counter.submit(Options(deadline_at=time.time() + 2), steps=20)
    await counter.submit(Options(deadline_at=time.time() + 60), steps=20)


async def test_a_deadline_that_is_missed_for_what_waits(counter: Counter) -> None:
    counter.stores.jobs.put_engine(engine())
    waiting = {f"j{n}": JobForecast(50.0, 40.0, 60.0, place=n, start=40.0, why="ahead") for n in range(3)}
    forecast = ModelForecast("nano", jobs=waiting, tenants={"them": TenantQueue(3, 0, 60.0)}, gpus=1, engines=1)
    counter.stores.forecasts.put(forecast)
    found = await counter.validate(steps=10)
    assert found.outlook is not None
    eta, low, high = found.outlook
    assert low <= eta <= high and eta > 40
    with pytest.raises(DeadlineOutOfReach) as caught:
        await counter.submit(Options(deadline_at=time.time() + 10), steps=10)
    error = as_api_error(caught.value)
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "DEADLINE_OUT_OF_REACH")
    assert error.violations[0].field == "deadline" and error.retry_seconds is not None
    await counter.submit(Options(deadline_at=time.time() + 500), steps=10)


async def test_a_job_that_fits_no_engine(counter: Counter) -> None:
    counter.stores.jobs.put_engine(engine(most_tokens=400))
    with pytest.raises(InvalidRequest, match=r"takes 600 tokens a step, the largest engine here has room for 400"):
        await counter.submit()
    await counter.submit(frames=9)
    larger = replace(engine(most_tokens=800), id="f")
    counter.stores.jobs.put_engine(larger)
    counter.submitter._prices._seen = None
    await counter.submit()


def test_a_gpu_is_found_by_its_drivers_files(tmp_path: Path) -> None:
    assert this_device(tmp_path) == "cpu"
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t NVIDIA H100 80GB HBM3\nIRQ: 7\n")
    assert this_device(tmp_path) == "NVIDIA H100 80GB HBM3"
