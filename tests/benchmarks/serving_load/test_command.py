"""`zoetrope bench serve` against a real gateway over both APIs, and against a server of another kind."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.serving_load.harness import peer, served
from tests.serving.gateway.harness import Service
from zoetrope.benchmarks.serving_load.__main__ import main
from zoetrope.benchmarks.serving_load.command import CourseOptions, WhereOptions, WorkOptions, make_plan
from zoetrope.benchmarks.serving_load.target import plain

MIX = """
{"share": 2, "task": "text_to_video", "size": "64x48", "frames": 9, "steps": 4}
{"task": "image_to_video", "size": "64x48", "frames": 9, "steps": 4}
{"task": "edit_video", "size": "64x48", "frames": 33, "steps": 4}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("served")) as service:
        yield service


@pytest.fixture
def mix(tmp_path: Path) -> str:
    path = tmp_path / "kinds.jsonl"
    path.write_text(MIX)
    return str(path)


def record_of(tmp_path: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    out = tmp_path / "results" / "load"
    assert main([*arguments, "--quiet", "--out", str(out)]) == status
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    assert out.with_suffix(".md").read_text().startswith("# A service under load\n")
    for name in found["plots"]:
        assert (out.parent / name).read_bytes().startswith(b"\x89PNG")
    return found


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_all_jobs_are_sent_and_counted(scheme: str, gateway: Service, mix: str, tmp_path: Path) -> None:
    address = f"{scheme}://{getattr(gateway.settings, scheme)}"
    arguments = ["--target", address, "--mix", mix, "--rate", "20", "--jobs", "12", "--gpu-price", "3.6"]
    more = ["--poll", "0.05"] if scheme == "http" else []
    found = record_of(tmp_path, *arguments, "--warm-up", "1", *more)
    (point,) = found["points"]
    figures = point["figures"]
    assert (figures["jobs"], figures["accepted"], figures["succeeded"]) == (12, 12, 12)
    assert figures["errors"] == {} and found["capacity"] is None
    assert sum(row["jobs"] for row in figures["classes"]) == 12
    assert {row["class"].split(",")[0] for row in figures["classes"]} <= {
        "text to video 64x48",
        "image to video 64x48",
        "edit video 64x48",
    }
    assert all(row["alone"] > 0 for row in figures["classes"])
    assert 0 < figures["latency"]["p50"] <= figures["latency"]["p99"]
    assert figures["videos_per_second"] == pytest.approx(12 / figures["seconds"])
    if scheme == "grpc":
        # The null engine is one rank: 12 clips of a second, for the price of a GPU that costs 0.001 a second.
        assert figures["gpus"] == 1
        assert figures["cost_per_video_second"] == pytest.approx(0.001 * figures["seconds"] / 12)


def test_loads_are_shares_of_the_capacity_that_was_measured(gateway: Service, mix: str, tmp_path: Path) -> None:
    where = ["--target", f"grpc://{gateway.settings.grpc}", "--mix", mix, "--jobs", "6"]
    found = record_of(tmp_path, *where, "--load", "0.5", "--load", "1", "--warm-up", "0")
    capacity = found["capacity"]
    assert capacity["per_second"] == pytest.approx(6 / capacity["seconds"])
    assert [point["rate"] / capacity["per_second"] for point in found["points"]] == pytest.approx([0.5, 1.0])
    # What really arrived, in jobs and in work, is what the points are called after.
    for point in found["points"]:
        arrivals = [row["arrival"] for row in point["each"]]
        offered = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])
        assert offered == pytest.approx(point["figures"]["offered_per_second"]) == pytest.approx(point["rate"])
        assert point["share_of_capacity"] == pytest.approx({"jobs": point["load"], "tokens": point["load"]})
    assert found["points"][0]["figures"]["slo_attainment"] is None, "nothing was made alone"


def test_every_tenant_is_known_before_so_that_it_gets_a_key_of_its_own(mix: str) -> None:
    work = WorkOptions(rate=(1.0,), mix=mix, tenants=3, jobs=60)
    plan = make_plan(WhereOptions(start="nano"), work, CourseOptions())
    assert plan.tenants() == ["tenant-1", "tenant-2", "tenant-3"] == sorted({job.tenant for job in plan.drawn(1.0)})


def test_files_that_cannot_be_written_are_told_of_before_any_job(
    gateway: Service, mix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--target", f"grpc://{gateway.settings.grpc}", "--mix", mix, "--rate", "1", "--warm-up", "0"]
    assert main([*where, "--out", "/proc/nowhere/load"]) == 2
    assert "out: '/proc/nowhere' cannot be written" in capsys.readouterr().err


def test_a_recorded_trace_is_sent_as_it_is(gateway: Service, tmp_path: Path) -> None:
    lines = [
        {"arrival": 0.4 * n, "width": 64, "height": 48, "frames": 9, "steps": 4, "tenant": f"t{n % 2}"}
        for n in range(3)
    ]
    lines[2]["deadline"] = 600.0
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(map(json.dumps, lines)))
    found = record_of(tmp_path, "--target", f"grpc://{gateway.settings.grpc}", "--trace", str(trace), "--warm-up", "0")
    (point,) = found["points"]
    assert [row["arrival"] for row in point["each"]] == [0.0, 0.4, 0.8]
    assert [row["tenant"] for row in point["figures"]["tenants"]] == ["t0", "t1"]
    assert point["figures"]["slo_attainment"] == 1.0, "of the one job with a deadline"
    assert point["figures"]["seconds"] >= 0.8


def test_a_job_is_cancelled_while_it_waits(tmp_path: Path, mix: str) -> None:
    with peer(seconds=1.0) as server:
        mixed = ["--target", server.address, "--mix", mix, "--rate", "10", "--jobs", "3", "--warm-up", "0"]
        found = record_of(tmp_path, *mixed, "--poll", "0.05", "--fault", "cancel@0.5")
    (point,) = found["points"]
    assert len(server.deleted) == 1
    assert point["faults"]["cancelled"] == point["faults"]["cancel_asked"] == 1 and point["faults"]["lost"] == 0
    assert point["faults"]["steps_redone"] is None, "nobody counts a peer's steps"
    assert point["figures"]["succeeded"] == 2


def test_a_peer_gets_forms_as_openai_has_them(tmp_path: Path, mix: str) -> None:
    with peer() as server:
        arguments = ["--target", f"{server.address}/v1", "--mix", mix, "--rate", "30", "--jobs", "16", "--fps", "8"]
        found = record_of(tmp_path, *arguments, "--poll", "0.02", "--warm-up", "0", "--key", "tenant-1=secret")
    assert found["model"] == "peer-model" and found["points"][0]["figures"]["succeeded"] == 16
    assert server.keys == {"Bearer secret"}
    texts = [fields for fields in server.asked if fields["path"] == "/v1/videos" and "input_reference" not in fields]
    assert texts[0] == {
        "path": "/v1/videos",
        "model": "peer-model",
        "prompt": "a red circle moving right on a white background",
        "num_inference_steps": "4",
        "seed": texts[0]["seed"],
        "size": "64x48",
        "num_frames": "9",
        "fps": "8",
    }
    pictures = [fields for fields in server.asked if "input_reference" in fields]
    assert all(fields["input_reference"] == ["picture-64x48-0.png"] for fields in pictures)
    clips = [fields for fields in server.asked if fields["path"] == "/v1/videos/edits"]
    assert all(fields["video"] == ["clip-64x48-33.mp4"] for fields in clips)
    assert len(texts) + len(pictures) + len(clips) == 16 and pictures and clips


def test_errors_are_counted_by_kind(tmp_path: Path, mix: str) -> None:
    arguments = ["--mix", mix, "--rate", "20", "--jobs", "5", "--poll", "0.02", "--warm-up", "0"]
    with peer(fail=frozenset({1, 3})) as server:
        found = record_of(tmp_path, "--target", server.address, *arguments)
    assert found["points"][0]["figures"]["errors"] == {"failed: OUT_OF_MEMORY": 2}
    with peer(refuse=503) as server:
        found = record_of(tmp_path / "again", "--target", server.address, *arguments, status=1)
    figures = found["points"][0]["figures"]
    assert figures["errors"] == {"refused: HTTP 503": 5} and figures["accepted"] == 0
    assert figures["latency"] is None and figures["videos_per_second"] == 0.0


def test_jobs_that_do_not_end_are_unfinished(tmp_path: Path, mix: str) -> None:
    with peer(seconds=600.0) as server:
        arguments = ["--target", server.address, "--mix", mix, "--rate", "20", "--jobs", "2", "--drain", "0.3"]
        found = record_of(tmp_path, *arguments, "--warm-up", "0", "--poll", "0.05", status=1)
    assert found["points"][0]["figures"]["errors"] == {"unfinished: no answer in time": 2}


def test_an_interrupted_run_writes_what_there_is_and_withdraws_its_jobs(tmp_path: Path, mix: str) -> None:
    def interrupt(name: str) -> None:
        if name == "video_4":  # the first of the second rate
            server.on_show = lambda name: None
            os.kill(os.getpid(), signal.SIGINT)

    with peer(seconds=0.05, on_show=interrupt) as server:
        arguments = ["--target", server.address, "--mix", mix, "--rate", "20", "--rate", "0.5", "--jobs", "4"]
        server.slow = "video_4"
        found = record_of(tmp_path, *arguments, "--warm-up", "0", "--poll", "0.02", status=130)
    assert found["interrupted"] and [point["rate"] for point in found["points"]] == [20.0]
    assert found["points"][0]["figures"]["succeeded"] == 4 and server.deleted == {"video_4"}
    assert "**It was interrupted: " in (tmp_path / "results" / "load.md").read_text()


def test_what_a_server_says_is_shown_as_plain_words() -> None:
    assert plain("m\x1b[31mEVIL|\nx" + 200 * "y") == "m??31mEVIL??x" + 115 * "y"


@pytest.mark.parametrize("used", ["abc", math.nan, math.inf, -1, [], 10**400])
def test_amounts_that_are_none_are_not_known(used: Any, tmp_path: Path, mix: str) -> None:
    with peer(usage={"used_gpu_seconds": used}) as server:
        arguments = ["--target", server.address, "--mix", mix, "--rate", "20", "--jobs", "1", "--poll", "0.02"]
        found = record_of(tmp_path, *arguments, "--warm-up", "0", "--gpus", "1")
    assert found["points"][0]["figures"]["gpu_busy_share"] is None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--target", "grpc://{grpc}", "--model", "wan9"], "model: 'wan9' is not served at"),
        (["--target", "http://{http}", "--model", "wan9"], "model: 'wan9' is not served at"),
        (["--target", "http://{http}/nowhere"], "/v1/models: status 404"),
        (["--target", "grpc://127.0.0.1:9"], "127.0.0.1:9"),
        (["--target", "http://127.0.0.1:9"], "target: http://127.0.0.1:9 does not answer"),
    ],
)
def test_a_server_that_cannot_be_loaded_is_told_of_before_any_job(
    arguments: list[str], problem: str, gateway: Service, mix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(gateway.client.list(page_size=100).operations)
    addresses = {"grpc": gateway.settings.grpc, "http": gateway.settings.http}
    given = [word.format(**addresses) for word in arguments]
    assert main([*given, "--rate", "1", "--jobs", "1", "--mix", mix, "--warm-up", "0", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert problem in error and len(error.splitlines()) == 1
    assert len(gateway.client.list(page_size=100).operations) == before


def test_a_job_that_the_service_would_refuse_is_told_of_before_any_is_sent(
    gateway: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = tmp_path / "long.jsonl"
    kinds.write_text('{"task": "text_to_video", "size": "64x48", "frames": 5000, "steps": 4}')
    before = len(gateway.client.list(page_size=100).operations)
    where = ["--target", f"grpc://{gateway.settings.grpc}", "--mix", str(kinds), "--rate", "1", "--quiet"]
    assert main([*where, "--warm-up", "0"]) == 1
    assert "text to video 64x48, 5000 frames, 4 steps: frames" in capsys.readouterr().err
    assert len(gateway.client.list(page_size=100).operations) == before
