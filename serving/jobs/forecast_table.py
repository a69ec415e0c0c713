"""What routers predict of their queues: one row for each model, rewritten about once a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from zoetrope.serving.jobs.db.database import Database, Tx

# Why a job has not begun: others are ahead of it, its tenant's other jobs use the tenant's share, all slots for
# adapters are taken, no engine is up, or its prompt and media are being encoded. "": it has begun.
Why: TypeAlias = Literal["", "ahead", "share", "slot", "engine", "conditioning"]
WHYS: tuple[Why, ...] = get_args(Why)


@dataclass(frozen=True, slots=True)
class JobForecast:
    """Seconds from `ModelForecast.written_at` on.

    Attributes:
        eta, low, high: until the job is done, and the interval that holds four out of five.
        place: how many jobs that have not begun are ahead of it.
        start: until its first step; 0 once it has begun.
    """

    eta: float
    low: float
    high: float
    place: int = 0
    start: float = 0.0
    why: Why = ""


@dataclass(frozen=True, slots=True)
class TenantQueue:
    """A tenant's unfinished jobs, and the GPU-seconds that they still cost."""

    queued: int
    running: int
    gpu_seconds: float


@dataclass(frozen=True)
class ModelForecast:
    """What a router predicts of one model's jobs.

    Attributes:
        written_at: seconds since the epoch, by the database's clock.
        jobs: by id; of a long queue the first ones. tenants: by name.
        gpus: of the engines that work on them. engines: how many.
        accuracy: how far earlier forecasts were off, see `serving.router.forecast_errors`.
        stages: figures of the stages around the engines, by name.
    """

    model: str
    written_at: float = 0.0
    jobs: Mapping[str, JobForecast] = field(default_factory=dict)
    tenants: Mapping[str, TenantQueue] = field(default_factory=dict)
    gpus: int = 0
    engines: int = 0
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)

    def eta_of_new(self, price: float, place: int) -> tuple[float, float, float]:
        """Estimate a job that is not there yet: seconds until it is done, and the interval of that.

        Args:
            price: in GPU-seconds. place: how many jobs that have not begun are ahead of it.
        """
        ahead = [job for job in self.jobs.values() if job.start and job.place < place]
        start = max((job.start for job in ahead), default=0.0)
        if place > 0 and not ahead:  # nothing of those ahead is known either
            start = sum(tenant.gpu_seconds for tenant in self.tenants.values()) / max(1, self.gpus)
        eta = start + price * max(1, self.engines) / max(1, self.gpus)
        low, middle, high = self.accuracy.get("spread", {}).get("queued", (0.5, 1.0, 2.0))
        return middle * eta, low * eta, high * eta

    def encoded(self) -> str:
        """Return the row's body, as JSON."""
        jobs = {
            job_id: [*(round(value, 2) for value in (j.eta, j.low, j.high)), j.place, round(j.start, 2), j.why]
            for job_id, j in self.jobs.items()
        }
        tenants = {name: [t.queued, t.running, round(t.gpu_seconds, 2)] for name, t in self.tenants.items()}
        rest = {
            "gpus": self.gpus,
            "engines": self.engines,
            "accuracy": dict(self.accuracy),
            "stages": dict(self.stages),
        }
        return json.dumps({"jobs": jobs, "tenants": tenants, **rest}, separators=(",", ":"))


def decoded(model: str, written_at: float, body: str) -> ModelForecast:
    """Return what `ModelForecast.encoded` wrote. What a newer release adds to it is left out."""
    found = json.loads(body)
    return ModelForecast(
        model,
        written_at,
        {job_id: JobForecast(*values[:6]) for job_id, values in found["jobs"].items()},
        {name: TenantQueue(*values[:3]) for name, values in found["tenants"].items()},
        found["gpus"],
        found["engines"],
        found["accuracy"],
        found["stages"],
    )


class ForecastTable:
    """Forecasts by model. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def put(self, forecast: ModelForecast) -> None:
        """Record a forecast as of now, in place of the model's last one."""
        body = forecast.encoded()
        sql = (
            "INSERT INTO forecast (model, written_at, body) VALUES (?, ?, ?)"
            " ON CONFLICT (model) DO UPDATE SET written_at = excluded.written_at, body = excluded.body"
        )

        def write(tx: Tx) -> None:
            tx.run(sql, (forecast.model, tx.now(), body))

        self._db.write(write, synced=False)

    def fresh(self, max_age_seconds: float) -> dict[str, tuple[ModelForecast, float]]:
        """Return the forecasts not older than that, each with its age in seconds, by model."""
        now = self._db.now()
        rows = self._db.read("SELECT * FROM forecast WHERE written_at >= ?", (now - max_age_seconds,))
        return {
            row["model"]: (decoded(row["model"], row["written_at"], row["body"]), max(0.0, now - row["written_at"]))
            for row in rows
        }
