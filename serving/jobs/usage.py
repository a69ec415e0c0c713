"""What a job costs and has used, as every API shows it."""

from __future__ import annotations

from zoetrope.serving.jobs.job import Job

PRICE = "gpu_hour_price"  # in a job's origin: what a GPU-hour cost when it was submitted


def estimated_cost(job: Job) -> float | None:
    """Return a job's price at the cost of a GPU-hour when it was submitted; None if either was not known."""
    hour = job.origin.get(PRICE)
    return None if hour is None or job.price <= 0 else round(job.price / 3_600 * float(hour), 6)


def usage_of(job: Job) -> dict[str, float]:
    """Return what is known of ``price_gpu_seconds``, ``used_gpu_seconds`` and ``estimated_cost``."""
    found = {
        "price_gpu_seconds": round(job.price, 3) or None,
        "used_gpu_seconds": round(job.used, 3) or None,
        "estimated_cost": estimated_cost(job),
    }
    return {name: value for name, value in found.items() if value is not None}
