"""What is asked for is checked before anything starts, and every error names the option and the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.__main__ import main
from zoetrope.benchmarks.serving_load.command import CourseOptions, WhereOptions, WorkOptions, make_plan

WHERE = ["--target", "grpc://127.0.0.1:9"]
LINE = '{"task": "text_to_video", "size": "64x48", "frames": 9, "steps": 4}'


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--rate", "1"], "target: give either --target ADDRESS or --start MODEL"),
        ([*WHERE, "--start", "nano", "--rate", "1"], "target: give either --target ADDRESS or --start MODEL"),
        (["--target", "127.0.0.1:9", "--rate", "1"], "target: '127.0.0.1:9' must be grpc://HOST:PORT"),
        (["--target", "ftp://host", "--rate", "1"], "target: 'ftp://host' must be grpc://HOST:PORT"),
        (["--target", "grpc://host", "--rate", "1"], "target: 'grpc://host' names no HOST:PORT"),
        (["--target", "http://", "--rate", "1"], "target: 'http://' names no host"),
        (WHERE, "rate: give either --rate, --load or --trace"),
        ([*WHERE, "--rate", "1", "--load", "0.5"], "rate: give either --rate, --load or --trace"),
        ([*WHERE, "--rate", "0"], "rate: 0 must be above 0"),
        ([*WHERE, "--rate", "1", "--rate", "-2"], "rate: -2 must be above 0"),
        ([*WHERE, "--rate", "nan"], "rate: nan must be above 0"),
        ([*WHERE, "--load", "inf"], "load: inf must be above 0"),
        ([*WHERE, "--rate", "1", "--seconds", "0"], "seconds: 0 must be above 0"),
        ([*WHERE, "--rate", "1", "--slo", "-1"], "slo: -1 must be above 0"),
        ([*WHERE, "--rate", "1", "--drain", "0"], "drain: 0 must be above 0"),
        ([*WHERE, "--rate", "1", "--gpu-price", "0"], "gpu-price: 0 must be above 0"),
        ([*WHERE, "--rate", "1", "--poll", "0"], "poll: 0 must be above 0"),
        ([*WHERE, "--rate", "1", "--jobs", "0"], "jobs: "),
        ([*WHERE, "--rate", "1", "--arrivals", "at-once"], "arrivals: 'at-once' must be poisson, bursty or ramp"),
        ([*WHERE, "--rate", "1", "--arrivals", "bursty", "--burst", "0.5"], "burst is 0.5, must be at least 1"),
        ([*WHERE, "--rate", "1", "--preset", "wan9"], "preset: 'wan9' must be one of "),
        ([*WHERE, "--rate", "1", "--policy", "fifo"], "policy: needs a service of the benchmark's own"),
        (["--start", "nano", "--rate", "1", "--policy", "luck"], "policy: 'luck' must be one of "),
        ([*WHERE, "--rate", "1", "--set", "ENGINES=2"], "set: needs a service of the benchmark's own"),
        (["--start", "nano", "--rate", "1", "--set", "ENGINES"], "set: 'ENGINES' must be NAME=VALUE"),
        (["--start", "nano", "--rate", "1", "--set", "ENGINE=2"], "set: ZOETROPE_ENGINE"),
        (["--start", "nano", "--rate", "1", "--set", "STEP_TOKENS=-5"], "set: STEP_TOKENS: '-5' must be at least 1"),
        (["--start", "nano", "--rate", "1", "--set", "POLICY=fifo"], "set: POLICY is the benchmark's own to choose"),
        ([*WHERE, "--rate", "1", "--key", "secret"], "key: 'secret'... must be TENANT=KEY"),
        ([*WHERE, "--rate", "1", "--fault", "kill-rank@3"], "fault: kill-rank needs a service of the benchmark's own"),
        ([*WHERE, "--rate", "1", "--fault", "restart@3"], "fault: restart needs a service of the benchmark's own"),
        (["--start", "nano", "--rate", "1", "--fault", "kill-cat@3"], "fault: 'kill-cat' of 'kill-cat@3' must be one"),
        (["--start", "nano", "--rate", "1", "--fault", "cancel"], "fault: 'cancel' must be ACTION@SECONDS"),
        (["--start", "nano", "--rate", "1", "--fault", "cancel@soon"], "fault: 'cancel@soon' must be ACTION@SECONDS"),
        (["--start", "nano", "--rate", "1", "--fault", "cancel@-1"], "fault: 'cancel@-1' must be ACTION@SECONDS"),
        ([*WHERE, "--rate", "1", "--mix", "odd"], "mix is 'odd', must be one of mixed, "),
        ([*WHERE, "--rate", "1", "--mix", "mixed"], "warm-up: the load has "),
        ([*WHERE, "--rate", "1e308", "--seconds", "1"], "rate: 1e+308 must be from 0.0001 to 10,000 jobs a second"),
        ([*WHERE, "--rate", "1e-308"], "rate: 1e-308 must be from 0.0001 to 10,000 jobs a second"),
        ([*WHERE, "--rate", "1", "--seconds", "1e9"], "seconds: 1e+09 s at 1 a second are more than 100,000 jobs"),
        ([*WHERE, "--rate", "1", "--jobs", str(10**20)], f"jobs: {10**20} must be at most 100,000"),
        ([*WHERE, "--rate", "1", "--tenants", str(10**9)], "tenants: 1000000000 must be at most 1,000"),
        ([*WHERE, "--load", "1e9"], "load: 1e+09 must be at most 1000 times the capacity"),
        ([*WHERE, "--trace", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
    ],
)
def test_bad_input_is_refused_by_name(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and problem in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("arrivals", ["poisson", "bursty", "ramp"])
@pytest.mark.parametrize("rate", [0.3, 2.0])
def test_jobs_arrive_at_exactly_the_rate(arrivals: str, rate: float) -> None:
    plan = make_plan(WhereOptions(start="nano"), WorkOptions(rate=(rate,), arrivals=arrivals, jobs=32), CourseOptions())
    trace = plan.drawn(rate)
    assert trace[0].arrival == 0.0 and (len(trace) - 1) / trace[-1].arrival == pytest.approx(rate, rel=1e-9)
    assert len(trace) == 32 or arrivals == "ramp"
    if arrivals == "poisson":  # so that a share of the capacity is that share of the work
        same = [job.model_copy(update={"arrival": 0.0}) for job in trace]
        assert same == plan.together()


def test_a_run_of_some_seconds_has_as_many_jobs_as_the_rate_says() -> None:
    plan = make_plan(WhereOptions(start="nano"), WorkOptions(rate=(2.0,), seconds=10.0), CourseOptions())
    trace = plan.drawn(2.0)
    assert len(trace) == 20 and trace[-1].arrival == pytest.approx(9.5)
    with pytest.raises(BenchmarkError, match=r"seconds: no job arrives within 10 s at 0\.01 a second"):
        plan.drawn(0.01)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("size", "is no JSON: "),
        (LINE.replace("64x48", "64"), "size: '64' "),
        (LINE.replace("64x48", "9999x48"), "size: '9999x48' must have sides from "),
        (LINE.replace('"frames": 9, ', ""), "seconds: must be set, or frames, and not both"),
        (LINE.replace("}", ', "seconds": 2}'), "seconds: must be set, or frames, and not both"),
        (LINE.replace("4}", "0}"), "steps: 0 must be at least 1"),
        (LINE.replace("}", ', "share": 0}'), "share: 0 must be above 0"),
        (LINE.replace("text_to_video", "t2v"), "task: 't2v' must be "),
        (LINE.replace("}", ', "deadline": -3}'), "deadline: -3 must be above 0"),
        (LINE.replace("}", ', "adapters": ["a", "b", "c"]}'), "adapters: "),
        (LINE.replace("}", ', "sice": 1}'), "sice: is not a known field"),
    ],
)
def test_a_wrong_line_of_a_mix_is_named(
    line: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kinds.jsonl"
    path.write_text(f"{LINE}\n{line}\n")
    assert main([*WHERE, "--rate", "1", "--mix", str(path)]) == 2
    assert f"{path}, line 2: {problem}" in capsys.readouterr().err


def test_a_wrong_line_of_a_trace_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"arrival": 0.0, "width": 64, "height": 48, "frames": 9, "steps": 4}\n{"arrival": 1.0}\n')
    assert main([*WHERE, "--trace", str(path)]) == 2
    assert f"{path}, line 2: width: must be set" in capsys.readouterr().err


def test_an_empty_mix_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kinds.jsonl"
    path.write_text("\n")
    assert main([*WHERE, "--rate", "1", "--mix", str(path)]) == 2
    assert f"{path}: has no kind of job" in capsys.readouterr().err
