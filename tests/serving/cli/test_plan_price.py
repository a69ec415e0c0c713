"""What `zoetrope plan` says that a job costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoetrope.serving.cli import main

PLAN = ["plan", "--model", "wan2.2-ti2v-5b", "--gpus", "2", "--size", "720p", "--duration", "5"]


@pytest.fixture(autouse=True)
def no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices from the roofline, whatever was measured since."""
    monkeypatch.setattr("zoetrope.cluster.planning.calibration.RESULTS", tmp_path / "results")


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str]) -> Any:
    """Plans a job with more options; returns what the plan says of it."""

    def plan(*more: str) -> dict[str, Any]:
        assert main([*PLAN, *more, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["job"]
        return found

    return plan


def test_a_job_costs_its_steps_and_what_is_around_them(job: Any) -> None:
    once, twice = job("--steps", "10"), job("--steps", "20")
    assert twice["denoising"] == pytest.approx(2 * once["denoising"])
    assert (twice["conditioning"], twice["decoding"]) == (once["conditioning"], once["decoding"])
    parts = sum(once[name] for name in ("conditioning", "denoising", "decoding"))
    assert once["gpu_seconds"] == pytest.approx(parts) and once["decoding"] > 0
    seconds = once["gpu_seconds"] / once["per_video_second"]
    assert seconds == pytest.approx(5.0, abs=0.1), "of the clip"
    assert (once["steps"], once["computed_steps"], once["segments"]) == (10, 10, 1)


def test_the_page_has_the_same_figures(job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = job("--steps", "10")
    assert main([*PLAN, "--steps", "10"]) == 0
    out = capsys.readouterr().out
    assert f"a job of 10 steps: {found['gpu_seconds']:,.4g} GPU-seconds" in out
    assert f"{found['denoising']:,.4g} denoising" in out


def test_what_cannot_be_priced_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--steps", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: steps: ")
    assert main([*PLAN, "--quality", "best"]) == 2
    assert capsys.readouterr().err.startswith("error: quality: ")
