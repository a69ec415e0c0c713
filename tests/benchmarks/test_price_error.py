"""Prices against what was used."""

from __future__ import annotations

import pytest

from zoetrope.benchmarks.price_error import PricedJob, markdown, measure, summary


def job(price: float, used: float) -> PricedJob:
    return PricedJob("text_to_video", "40x24", 17, 10, "exact", 3.0, price, used)


def test_the_first_jobs_only_teach() -> None:
    jobs = [job(9.0, 1.0), job(9.0, 1.0), job(1.05, 1.0), job(0.95, 1.0), job(1.3, 1.0), job(2.0, 2.0)]
    found = summary(jobs, [0.02, 0.04, 0.03])
    assert found["jobs"] == 4 and found["steps"] == 3
    assert found["median"] == pytest.approx(0.05) and found["p90"] == pytest.approx(0.3)
    assert found["within_goal"] == 0.75 and found["total"] == pytest.approx(5.3 / 5 - 1)
    assert found["step_median"] == 0.03


@pytest.mark.long
def test_nano_is_priced_and_metered() -> None:
    jobs, errors = measure(3)
    assert len(jobs) == 3 and all(one.price > 0 and one.used > 0 for one in jobs)
    assert sum(one.steps for one in jobs) >= len(errors) > 0
    where = {"command": "c", "commit": "0" * 40, "changed": False, "date": "today"}
    machine = {"processor": "p", "idle": True, "load_average": [0.0], "cores": 2}
    page = markdown(
        {
            "environment": where,
            "machine": machine,
            "summary": summary(jobs, errors),
            "jobs": [vars(one) for one in jobs],
        }
    )
    assert page.count("\n| ") == 1 + len(jobs)
