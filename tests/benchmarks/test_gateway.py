"""What a gateway carries is measured on a real gateway process; here only for a moment."""

from __future__ import annotations

import asyncio
import io
import json
import os
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.gateway.__main__ import main
from zoetrope.benchmarks.gateway.client import WatchResult, message, run
from zoetrope.benchmarks.gateway.phases import LoadRow, PhaseResult, PhaseSizes, StoreRow, Times
from zoetrope.benchmarks.gateway.processes import helper
from zoetrope.benchmarks.gateway.report import bounds, goal_met, warning
from zoetrope.benchmarks.provenance import machine
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.main import open_core
from zoetrope.serving.jobs.job import QueueLimits, State
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.storage.store import open_artifacts

QUICK = PhaseSizes.quick()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON and the page of a quick run on SQLite."""
    out = tmp_path_factory.mktemp("results") / "deeper" / "gateway.json"
    command = ["--quick", "--database", "sqlite", "--streams", "10", "--queued", "450", "--out", str(out)]
    assert main(command) == 0
    return json.loads(out.read_text()), out.with_suffix(".md").read_text()


@pytest.mark.long
def test_a_run_says_where_and_how_it_was_made(measured: tuple[dict[str, Any], str]) -> None:
    values, page = measured
    where, about = values["environment"], values["environment"]["machine"]
    assert where["command"].startswith("python -m zoetrope.benchmarks.gateway --quick --database sqlite --streams 10")
    assert about["cores"] == os.cpu_count() and len(about["load_average"]) == 3
    assert where["packages"]["grpcio"] and values["sizes"]["streams"] == 10
    assert where["command"] in page and about["processor"] in page
    assert ("**The machine was not idle" in page) == (not about["idle"])


@pytest.mark.long
def test_every_load_is_answered_and_ended(measured: tuple[dict[str, Any], str]) -> None:
    (one,) = measured[0]["databases"]
    flood, paced, half, batches, paced_batches, long = one["loads"]
    offered = [None, QUICK.rate, QUICK.rate / 2, None, QUICK.rate, QUICK.rate / 10]
    assert [row["offered"] for row in one["loads"]] == offered
    for row in one["loads"]:
        assert row["creates"]["count"] > 0 and not row["failures"]
        assert 0 < row["creates"]["p50"] <= row["creates"]["p99"] <= row["creates"]["longest"]
        assert row["per_second"] > 0 and 0 < row["shares"]["gateway"] < 2
    assert flood["gets"]["count"] > 0
    # The calls before the clock starts make jobs as well.
    assert flood["ended"] > flood["creates"]["count"] and paced["ended"] > paced["creates"]["count"]
    assert half["ended"] > half["creates"]["count"]
    for row in (batches, paced_batches):
        assert row["batch"] == QUICK.batch and row["ended"] > QUICK.batch * row["creates"]["count"]
    assert long["ended"] == 0 and "queued, no engine" in long["what"]
    assert measured[0]["grpc_alone"]["per_second"] > flood["per_second"]
    assert one["store"]["per_second"] > 0


@pytest.mark.long
def test_every_stream_sees_its_end(measured: tuple[dict[str, Any], str]) -> None:
    row = measured[0]["databases"][0]["watch"]
    assert row["streams"] == row["lag"]["count"] == 10 and not row["failures"]
    assert (
        row["events"] >= 20 and row["events_per_second"] > 0 and row["lag"]["p50"] > 0
    )  # a step and the end, at least


@pytest.mark.long
def test_the_whole_queue_is_listed(measured: tuple[dict[str, Any], str]) -> None:
    everything, some, one = measured[0]["databases"][0]["lists"]
    assert (everything["filter"], everything["jobs"] >= 450, everything["pages"]) == ("", True, 3)
    assert some["filter"] == 'labels.batch="7"' and some["jobs"] >= 5  # 5 of 450, and of the jobs that were watched
    assert one["filter"] == 'labels.number="0"' and one["jobs"] == 2


@pytest.mark.long
def test_memory_is_told_after_each_part(measured: tuple[dict[str, Any], str]) -> None:
    memory, page = measured[0]["databases"][0]["memory"], measured[1]
    assert (
        next(iter(memory)) == "at the start"
        and len(memory) == 4
        and all(20 < value < 2_000 for value in memory.values())
    )
    assert all(f"| {part} | {value:.0f} |" in page for part, value in memory.items())


@pytest.mark.integration
def test_the_null_engine_ends_jobs_with_a_video_that_plays(tmp_path: Path) -> None:
    import av

    from zoetrope.benchmarks.gateway.jobs import JobMaker

    settings = Settings(data_dir=tmp_path)
    with closing(open_stores(settings.database_url)) as stores:
        jobs = stores.jobs.create_batch(list(JobMaker("test").many(5)), QueueLimits(10))
        with helper("zoetrope.benchmarks.gateway.null_engine", "2", "3", "0", settings=settings) as engine:
            while stores.jobs.counts()["succeeded"] < len(jobs):
                assert engine.process.poll() is None
            engine.stop()
            assert int(engine.line()) == len(jobs)
        done = stores.jobs.get(jobs[0].id, "")
    assert done is not None and done.state is State.SUCCEEDED and done.result is not None and done.step == done.steps
    path = tmp_path / "video.mp4"
    path.write_bytes(b"".join(open_artifacts(settings.artifacts_url).read(done.result["video"]["key"], 0, 1 << 20)))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(frames) == 8 and frames[-1].mean() > frames[0].mean() + 100


def test_jobs_are_those_that_the_gateway_makes(tmp_path: Path) -> None:
    from zoetrope.benchmarks.gateway.jobs import MODEL, JobMaker
    from zoetrope.model.catalog.presets import find_model
    from zoetrope.serving.gateway.auth.authenticator import Principal
    from zoetrope.serving.gateway.grpc.decode import order_of

    with open_core(Settings(data_dir=tmp_path), ServedModels([find_model(MODEL)])) as core:
        real = asyncio.run(core.submitter.submit(order_of(message("one-000001")), Principal()))
        ours = core.stores.jobs.create(JobMaker("one").make({}), QueueLimits(10))
    assert real.spec.keys() == ours.spec.keys() and real.spec["task"].keys() == ours.spec["task"].keys()
    same = ("model", "steps", "seconds", "priority", "origin", "owner")
    assert [getattr(real, name) for name in same] == [getattr(ours, name) for name in same]


def _row(rate: float, offered: float | None, get_ms: float, **shares: float) -> LoadRow:
    times = Times(100, 1.0, get_ms, get_ms)
    return LoadRow("", rate, offered, 1, times, times, {}, {"gateway": 0.5, "machine": 2.0, "clients": 0.5, **shares})


@pytest.mark.parametrize(
    ("flood", "paced", "get_ms", "creates", "gets"),
    [(1_001, 999, 20.0, True, True), (900, 980, 20.1, True, False), (900, 900, 5.0, False, False)],
)
def test_the_goal_is_met_only_where_the_figures_say_so(
    flood: float, paced: float, get_ms: float, creates: bool, gets: bool
) -> None:
    loads = [_row(flood, None, 500.0), _row(paced, 1_000.0, get_ms)]
    found = PhaseResult("SQLite", "3", StoreRow(5_000, 64, 0.5), loads)
    assert goal_met(found) == {"creates_per_second": creates, "get_p99_ms": gets}


def test_the_goal_is_of_single_creates_or_of_batches_alone() -> None:
    loads = [_row(1_200, None, 1.0), replace(_row(990, 1_000.0, 15.0), batch=10)]
    found = PhaseResult("SQLite", "3", StoreRow(5_000, 64, 0.5), loads)
    assert goal_met(found) == {"creates_per_second": True, "get_p99_ms": False}
    assert goal_met(found, 10) == {"creates_per_second": True, "get_p99_ms": True}


def test_what_bounds_it_is_read_from_the_cores() -> None:
    empty, store = _row(4_000, None, 1.0, server=1.0), StoreRow(5_000, 64, 0.5)

    def said(**shares: float) -> str:
        return bounds(PhaseResult("SQLite", "3", store, [_row(1_000, None, 1.0, **shares)]), empty)

    assert "whose one interpreter used 0.97" in said(gateway=0.97, clients=0.9)
    assert "the commits on the disk" in said(gateway=0.2, clients=0.2, machine=0.4)
    assert "Other programs took 1.00 cores" in said()
    assert "gRPC with an empty method 250 µs" in said() and "the store alone costs 100 µs" in said()


def test_percentiles_are_of_the_calls() -> None:
    assert Times.of([value / 1_000 for value in range(100, 0, -1)]) == Times(100, 51.0, 100.0, 100.0)
    assert Times.of([]).count == 0


def test_a_busy_machine_is_refused_and_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.5, 2.0, 1.0))
    assert main(["--out", "unused.json"]) == 2
    assert "load average was 3.50" in " ".join(capsys.readouterr().err.split())
    assert not Path("unused.json").exists()
    text = warning(machine((3.5, 2.0, 1.0)))
    assert text is not None and warning(machine((0.1, 2.0, 1.0))) is None


@pytest.mark.parametrize("option", [["--seconds", "0"], ["--streams", "-1"], ["--queued", "many"], ["--database", "x"]])
def test_options_are_checked(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(option)
    assert ended.value.code == 2 and option[0] in capsys.readouterr().err


def test_calls_that_fail_are_counted(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    seen = asyncio.run(run({"target": "127.0.0.1:1", "names": ["operations/vid_none"] * 3}))
    assert isinstance(seen, WatchResult) and seen.failures == {"UNAVAILABLE": 3} and seen.lags == []
    json.dumps(asdict(seen))
    assert capfd.readouterr().err.count("UNAVAILABLE") == 1
