"""The step through the service against the bare one: once for real on a tiny random model, the rest on made figures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import zoetrope.benchmarks.served_step.__main__ as command
from tests.fixtures.small_presets import small_preset
from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.provenance import machine
from zoetrope.benchmarks.random_checkpoint import write_random_checkpoint
from zoetrope.benchmarks.served_step import bare, report
from zoetrope.benchmarks.served_step.__main__ import main
from zoetrope.benchmarks.served_step.bare import BareTiming
from zoetrope.benchmarks.served_step.served import ServedTiming, pace
from zoetrope.benchmarks.served_step.work import ServedWork, task_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS
from zoetrope.model.request.tasks import FirstLastFrame, ImageToVideo, TextToVideo
from zoetrope.serving.client import OperationStatus
from zoetrope.serving.client.types import ClientError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("random") / "wan2.7-27b"
    write_random_checkpoint(small_preset(PRESETS["wan2.7-27b"]), root)
    return str(root)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_run_from_end_to_end(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real service; the bare model is in this process, which saves two starts."""
    monkeypatch.setattr(command, "_bare", lambda work: bare.measure(work, *bare.load(work)))
    out = tmp_path / "results" / "served-step"
    given = ["--model", tiny, "--size", "64x64", "--duration", "0.2", "--steps", "80", "--rounds", "1", "--busy"]
    assert main([*given, "--repeats", "1", "--out", str(out)]) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    page = out.with_suffix(".md").read_text()
    assert record["environment"]["command"].startswith("python -m zoetrope.benchmarks.served_step --model ")
    clip = record["clip"]
    assert (clip["model"], clip["weights"]) == ("wan2.7-27b-random-weights", "random weights")
    assert clip["latent_shape"] == [48, 2, 4, 4]
    before, after = record["bare"]
    assert before["tokens"] == after["tokens"] == 2 * 2 * 2 * 2, "two branches"
    (served,) = record["served"]
    assert 1 <= served["between"] <= 78 and served["ready_seconds"] > before["load_seconds"] > 0
    (row,) = record["rounds"]
    assert row["served"] == served["runs"][0] > 0 and row["before"] == before["runs"][0] > 0
    mean = (row["before"] + row["after"]) / 2
    assert record["ratio"]["median"] == pytest.approx(mean / row["served"])
    assert record["overhead_ms"]["median"] == pytest.approx(1e3 * (row["served"] - mean))
    assert record["goal"]["met"] is None, "another device"
    assert f"bare / served = {record['ratio']['median']:.4f}" in page and page in capsys.readouterr().out


@pytest.mark.long
def test_the_bare_model_in_a_process_of_its_own(tiny: str) -> None:
    found = command._bare(ServedWork(tiny, "64x64", 0.2, steps=6, repeats=2))
    assert len(found.runs) == 2 and all(seconds > 0 for seconds in found.runs)
    assert (found.tokens, found.peak_gib) == (16, None) and found.threads >= 1


def test_the_steps_at_both_ends_of_a_run_do_not_count(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = ServedWork(tiny, "64x64", 0.2, steps=4, repeats=2)
    seconds = iter([[9.0, 9.0, 9.0], [5.0, 1.0, 2.0, 7.0], [6.0, 3.0, 3.5, 8.0]])
    monkeypatch.setattr(bare, "_run", lambda *_: (next(seconds), 16))
    found = bare.measure(work, *bare.load(work))
    assert (found.runs, found.median_step) == ([1.5, 3.25], 2.5)


def status(state: str, step: int, *, attempt: int = 1, error: str = "") -> OperationStatus:
    return OperationStatus(
        name="operations/x",
        state=state,
        step=step,
        steps=8,
        queue_position=0,
        eta_seconds=None,
        model="m",
        create_time=0.0,
        start_time=0.0,
        end_time=None,
        attempt=attempt,
        cancel_requested=False,
        done=state in ("succeeded", "failed"),
        error=ClientError("INTERNAL", error) if error else None,
        video=None,
    )


def at(*seen: tuple[float, OperationStatus]) -> Sequence[tuple[float, OperationStatus]]:
    return seen


def test_the_pace_is_from_the_first_step_seen_to_the_last() -> None:
    seen = at(
        (0.0, status("queued", 0)),
        (1.0, status("denoising", 0)),
        (3.0, status("denoising", 2)),
        (3.5, status("denoising", 2)),
        (6.0, status("denoising", 5)),
        (9.0, status("denoising", 7)),
        (50.0, status("decoding", 8)),
        (90.0, status("succeeded", 8)),
    )
    assert pace(seen) == (6.0 / 5, 5)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (status("failed", 4, error="out of memory"), "a job did not succeed: out of memory"),
        (status("succeeded", 8, attempt=2), "a job was started 2 times"),
        (status("succeeded", 8), "1 of 8 steps were observed: they are too short, use more --steps"),
    ],
)
def test_a_job_that_tells_nothing_is_an_error(end: OperationStatus, said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        pace(at((1.0, status("denoising", 7)), (2.0, end)))


def _bare(*runs: float) -> BareTiming:
    return BareTiming(list(runs), runs[0], 100, 2, 1.0, None)


def test_each_round_lies_between_two_of_the_bare_model() -> None:
    bares = [_bare(0.9, 0.8, 5.0), _bare(1.1), _bare(1.3)]
    first, second = report.rounds_of(bares, [ServedTiming([9.0, 1.25, 1.0], 6, 10.0), ServedTiming([1.2], 6, 10.0)])
    assert (first.before, first.served, first.after) == (0.9, 1.25, 1.1)
    assert first.ratio == pytest.approx(0.8) and first.overhead == pytest.approx(0.25)
    assert first.drift == pytest.approx(0.2 / 0.9)
    assert second.ratio == pytest.approx(1.0) and second.overhead == pytest.approx(0.0)
    text = report.unsteady([first, second])
    assert text is not None and "drifted by +22.2 %" in text
    assert report.unsteady([replace(first, drift=-0.019)]) is None
    assert report.unsteady([replace(first, drift=-0.021), replace(first, drift=0.001)]) is not None


def test_the_shortest_step_holds_the_goal_and_no_shorter_one() -> None:
    shortest = report.shortest_step(0.010)
    assert shortest is not None and shortest == pytest.approx(0.49)
    assert shortest / (shortest + 0.010) == pytest.approx(report.GOAL)
    assert report.shortest_step(0.0) is None and report.shortest_step(-0.001) is None


@pytest.mark.parametrize(
    ("model", "device", "served", "met", "said"),
    [
        ("wan2.7-27b-random-weights", "NVIDIA H100 80GB HBM3", 1.01, True, "one H100: met."),
        ("wan2.7-27b-random-weights", "NVIDIA H100 80GB HBM3", 1.03, False, "one H100: NOT met."),
        ("wan2.7-27b-wide-random-weights", "NVIDIA H100 80GB HBM3", 1.01, None, "another model or device"),
        ("wan2.7-27b-random-weights", "NVIDIA H200", 1.01, None, "another model or device"),
    ],
)
def test_the_goal_is_of_one_model_on_one_device(
    monkeypatch: pytest.MonkeyPatch, model: str, device: str, served: float, met: bool | None, said: str
) -> None:
    environment = {
        "device": device,
        "cuda": "13",
        "command": "c",
        "date": "d",
        "commit": "e",
        "changed": "",
        "torch": "",
    }
    monkeypatch.setattr("zoetrope.benchmarks.environment.header", lambda *_: environment)
    clip = {
        "model": model,
        "weights": "random",
        "size": "480p",
        "duration": 5.0,
        "latent_shape": (48, 31, 30, 52),
        "guidance": 5.0,
        "steps": 8,
        "repeats": 1,
    }
    values = report.record(
        "c", machine((0.0, 0.0, 0.0)), clip, [_bare(1.0), _bare(1.0)], [ServedTiming([served], 6, 60.0)]
    )
    assert values["goal"]["met"] is met
    page = report.markdown(values)
    assert said in page and device in page and "not idle" not in page and "drifted" not in page
    apart = report.record(
        "c", machine((0.0, 0.0, 0.0)), clip, [_bare(1.0), _bare(0.9)], [ServedTiming([served], 6, 60.0)]
    )
    assert "**The bare model itself drifted by -10.0 % within a round" in report.markdown(apart)
    assert apart["goal"]["met"] is None and "this run is too unsteady to tell" in report.markdown(apart)
    assert report.markdown(values | {"machine": machine((3.5, 0.0, 0.0))}).count("load average was 3.50") == 1


def test_models_without_words_get_pictures() -> None:
    card = find_model("nano")
    assert isinstance(task_of(card, "p"), TextToVideo)
    assert task_of(replace(card, tasks=("image_to_video",)), "p") == ImageToVideo(
        prompt="a red circle moving right", image="p"
    )
    assert isinstance(task_of(replace(card, tasks=("first_last_frame",)), "p"), FirstLastFrame)


def test_a_busy_machine_is_refused_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.5, 2.0, 1.0))
    monkeypatch.setattr(command, "_measure", lambda *_: pytest.fail("measured all the same"))
    assert main(["--model", "nano", "--duration", "1"]) == 2
    assert "load average was 3.50" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "nano", "--duration", "5"], "needs 3 segments of nano; must be at most 2.12"),
        (["--model", "nano", "--duration", "99"], "duration_seconds: 99.0 must be above 0"),
        (["--model", "none"], "'none' is neither a preset"),
        (["--model", "wan2.7-27b", "--size", "101x100"], "size: 101x100 has an odd side, sides must be even"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    monkeypatch.setattr(command, "_measure", lambda *_: pytest.fail("measured all the same"))
    assert main([*given, "--busy"]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--steps", "3"], ["--rounds", "0"], ["--repeats", "0"], ["--duration", "x"]])
def test_options_are_checked(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(option)
    assert ended.value.code == 2 and option[0] in capsys.readouterr().err
