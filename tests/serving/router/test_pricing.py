"""What jobs cost before they run, and what they are said to have used."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from zoetrope.cluster.planning.step_costs import Load
from zoetrope.cluster.protocol.messages import Failed, Report, StepShare
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import VideoRequest
from zoetrope.serving.router.metering import Meter
from zoetrope.serving.router.pricing import EngineCosts, load_of, price_of

NANO = find_model("nano")
TEXT = {"kind": "text_to_video", "prompt": "a red circle"}
CPU = EngineCosts.prior(NANO, "cpu")


def spec_of(**fields: Any) -> VideoSpec:
    return resolve(VideoRequest.model_validate({"task": TEXT, "frames": 17, **fields}), NANO, 0)


def denoising(**fields: Any) -> float:
    return price_of(spec_of(**fields), NANO, CPU).denoising


def test_a_price_counts_the_steps_that_are_computed() -> None:
    whole = denoising(steps=20)
    assert denoising(steps=40) == pytest.approx(2 * whole)
    spec = spec_of(steps=30, quality="balanced")
    computed = sum(mark == "#" for mark in spec.step_mask)
    assert 0 < computed < 30
    assert denoising(steps=30, quality="balanced") == pytest.approx(computed / 20 * whole)


def test_a_price_counts_the_branches_of_every_step() -> None:
    one, two = denoising(steps=20, guidance=1.0), denoising(steps=20)
    half = denoising(steps=20, guidance_end=0.5)
    assert one < half < two
    assert half == pytest.approx((one + two) / 2)


def test_a_clip_of_several_segments_pays_for_each() -> None:
    spec = spec_of(frames=29, steps=10)
    assert len(spec.spans) == 2
    price, single = price_of(spec, NANO, CPU), price_of(spec_of(steps=10), NANO, CPU)
    assert price.denoising == pytest.approx(2 * single.denoising)
    assert price.conditioning > single.conditioning and price.decoding > single.decoding
    assert price.total == price.conditioning + price.denoising + price.decoding


def test_a_gang_is_paid_for_by_all_its_ranks() -> None:
    gang = EngineCosts.prior(NANO, "cpu", ranks=2)
    seconds = gang.step.share_seconds(load_of(segment_of(spec_of(), ""), NANO))
    assert price_of(spec_of(steps=10), NANO, gang).denoising == pytest.approx(10 * 2 * seconds)


def test_company_shares_what_a_step_costs_in_any_case() -> None:
    assert price_of(spec_of(), NANO, replace(CPU, company=4.0)).denoising < denoising()


def test_equal_jobs_together_pay_for_the_whole_step() -> None:
    load = load_of(segment_of(spec_of(), ""), NANO)
    for company in (1, 2, 5, 16):
        together = CPU.step.seconds([load] * company)
        assert company * CPU.step.share_seconds(load, company) == pytest.approx(together)


def test_the_company_of_a_step_is_known_after_a_few() -> None:
    counted = meter()
    for number in range(12):
        shares = [StepShare(f"{job}/1/0", 300, 2) for job in range(2 + number % 3)]
        counted.note(report(*shares, seconds=0.1))
    assert counted.company("nano") == pytest.approx(3.0)
    for _ in range(300):
        counted.note(report(StepShare("a/1/0", 300, 2), seconds=0.1))
    assert counted.company("nano") == pytest.approx(1.0, abs=0.01), "and what was long ago is forgotten"


def test_costs_go_through_json() -> None:
    read = EngineCosts.from_dict(json.loads(json.dumps(replace(CPU, company=2.5, most_tokens=9).to_dict())))
    assert (read.company, read.most_tokens) == (2.5, 9)
    assert price_of(spec_of(), NANO, read).total == pytest.approx(
        price_of(spec_of(), NANO, replace(CPU, company=2.5)).total, rel=1e-4
    )
    damaged: tuple[dict[str, Any], ...] = ({}, {"stages": {}}, {**CPU.to_dict(), "stages": None})
    for broken in damaged:
        with pytest.raises(ValueError, match=r"^costs: "):
            EngineCosts.from_dict(broken)


def report(*shares: StepShare, seconds: float, epoch: int = 1, **fields: Any) -> Report:
    return Report("e", epoch, "nano", step_seconds=seconds, shares=shares, device="cpu", **fields)


def meter() -> Meter:
    return Meter({"nano": NANO}.get)


def test_a_step_is_paid_for_by_those_who_were_in_it() -> None:
    counted = meter()
    for job in ("large", "small"):
        counted.begin(job, 1.0)
    used = counted.note(report(StepShare("large/1/0", 900, 2), StepShare("small/1/0", 60, 1), seconds=0.4, ranks=2))
    assert sum(used.values()) == pytest.approx(0.8), "seconds times ranks"
    assert used["large"] > 5 * used["small"] > 0
    assert counted.used("large") == pytest.approx(1.0 + used["large"]), "with what earlier attempts used"
    counted.forget("large")
    assert counted.used("large") == 0
    assert counted.note(report(seconds=0.0)) == {}
    assert meter().note(replace(report(StepShare("a/1/0", 60, 1), seconds=1.0), model="unknown")) == {}


def test_it_learns_from_warm_ups_and_from_steps_but_not_from_a_gangs_first_nor_from_failures() -> None:
    counted, share = meter(), StepShare("a/1/0", 300, 2)
    counted.note(report(seconds=0.0, warmed=((StepShare("warm-up", 60, 1), 0.01),)))
    costs = counted.costs("e")
    assert costs is not None and costs.seen == 1
    counted.note(report(share, seconds=9.0))
    assert costs.seen == 1, "a first step compiles"
    counted.note(report(share, seconds=0.05))
    assert costs.seen == 2 and counted.costs_of(report(seconds=0.0)) is costs
    counted.note(report(share, seconds=9.0, failed=(Failed("b", "why"),)))
    assert costs.seen == 2
    counted.note(report(share, seconds=9.0, epoch=2))
    assert costs.seen == 2 and counted.costs("e") is costs, "another gang of the same engine"
    with pytest.raises(KeyError):
        counted.costs_of(replace(report(seconds=0.0), engine="f", model="unknown"))


def test_the_last_step_is_due_before_the_clip_is() -> None:
    found, spec = meter(), spec_of()
    assert found.denoised_by(100.0, spec) == 100.0, "nothing is known yet"
    found.note(Report("e", 1, "nano", device="cpu"))
    for _ in range(20):
        found.stage("decoding", "a", spec, 4.0)
    assert found.denoised_by(100.0, spec) == pytest.approx(96.0, abs=0.5)
    assert found.denoised_by(None, spec) is None


def test_another_router_goes_on_with_what_was_learned() -> None:
    first, share = meter(), StepShare("a/1/0", 300, 2)
    for _ in range(40):
        first.note(report(share, share, seconds=0.08))
    second = meter()
    second.recall({"e": first.row("e"), "f": {"costs": "of another release"}})
    second.note(report(seconds=0.0))
    costs = second.costs("e")
    assert costs is not None and costs.seconds([Load(300, 2)] * 2) == pytest.approx(0.08, rel=0.02)
    assert second.company("nano") == pytest.approx(2.0)


def test_prices_are_what_jobs_will_have_used() -> None:
    """A machine of unknown speed, jobs that come and go: each is priced when it comes, by what was learned so far."""
    rng, counted = random.Random(5), meter()

    def truth(step: list[Load]) -> float:
        return 0.006 + sum(one.branches * (0.0014 + 30e-6 * one.tokens + 9e-9 * one.tokens**2) for one in step)

    running: dict[str, tuple[VideoSpec, int]] = {}
    prices: dict[str, float] = {}
    off: list[float] = []
    for number in range(400):
        while len(running) < 4:
            name = f"job{number}-{len(running)}"
            steps = {"steps": rng.randint(6, 30), "guidance": rng.choice([1.0, 3.0])}
            spec = spec_of(frames=rng.choice([5, 9, 17]), size=rng.choice(["40x24", "32x32"]), **steps)
            known = counted.engine_costs("e")
            running[name] = spec, 0
            prices[name] = 0.0 if known is None else price_of(spec, NANO, known).denoising
            counted.begin(name, 0.0)
        batch = {name: load_of(segment_of(spec, ""), NANO, step) for name, (spec, step) in running.items()}
        shares = [StepShare(f"{name}/1/0", load.tokens, load.branches) for name, load in batch.items()]
        counted.note(report(*shares, seconds=truth(list(batch.values())) * rng.lognormvariate(0, 0.05)))
        for name, (spec, step) in list(running.items()):
            running[name] = spec, step + 1
            if step + 1 == spec.steps:
                if number > 100:
                    off.append(abs(prices[name] / counted.used(name) - 1))
                del running[name]

    assert len(off) > 30
    assert sorted(off)[len(off) // 2] < 0.05
    assert sorted(off)[len(off) * 9 // 10] < 0.10
