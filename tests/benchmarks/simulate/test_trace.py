"""Traces as files: what is read is what was written, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoetrope.benchmarks.simulate.generate import TraceRecipe, generate
from zoetrope.benchmarks.simulate.trace import TraceError, TraceJob, read_trace, write_trace

GOOD = '{"arrival": 1.5, "width": 832, "height": 480, "frames": 81, "steps": 50}'


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    trace = generate(TraceRecipe(mix="mixed", rate=0.5, seconds=400, seed=3))
    assert len(trace) > 100
    write_trace(tmp_path / "new" / "trace.jsonl", trace)
    assert read_trace(tmp_path / "new" / "trace.jsonl") == trace


def test_jobs_are_in_the_order_of_their_arrivals_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{GOOD}\n\n{GOOD.replace('1.5', '0.5')}\n")
    assert [job.arrival for job in read_trace(path)] == [0.5, 1.5]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (GOOD.replace("50}", "0}"), "steps: 0 must be at least 1"),
        (GOOD.replace("50}", "2.5}"), "steps: 2.5 must be an integer"),
        (GOOD.replace("832", "9000"), "width: 9000 must be at most 1920"),
        (GOOD.replace("1.5", "-1"), "arrival: -1 must be at least 0"),
        (GOOD.replace("1.5", '"now"'), "arrival: 'now' must be a number"),
        (GOOD.replace('"frames": 81, ', ""), "frames: must be set"),
        (GOOD.replace("}", ', "stepps": 3}'), "stepps: is not a known field"),
        (GOOD.replace("}", ', "branches": 3}'), "branches: 3 must be at most 2"),
        (GOOD.replace("}", ', "priority": 10}'), "priority: 10 must be at most 9"),
        (GOOD.replace("}", ', "task": "t2v"}'), "task: 't2v' must be 'text_to_video'"),
        (GOOD.replace("}", ', "quality": "best"}'), "quality: 'best' must be 'exact'"),
        (GOOD.replace("}", ', "deadline": 1.0}'), "deadline: 1 must be after its arrival at 1.5"),
        ("arrival,width", "is no JSON: "),
        ("[1, 2]", "must be an object"),
    ],
)
def test_an_error_names_the_line_the_field_and_the_value(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert f"{path}, line 2: " in str(caught.value) and problem in str(caught.value)


def test_every_line_at_fault_is_listed_up_to_ten(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{GOOD}\n" + "{}\n" * 4)  # four fields are missing in each of four lines
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    lines = str(caught.value).split("\n")
    assert len(lines) == 11 and "line 2: arrival: must be set" in lines[0] and lines[-1] == "and 10 more errors"


@pytest.mark.parametrize(("content", "problem"), [(None, "cannot be read"), ("\n", "has no job")])
def test_a_file_without_jobs_is_refused(content: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TraceError, match=problem):
        read_trace(path)


def test_a_clip_on_end_is_of_the_same_class() -> None:
    job = TraceJob(arrival=0.0, width=480, height=832, frames=81, steps=50)
    assert job.shape == "832x480, 81 frames"
