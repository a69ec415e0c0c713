"""Gangs that change their size: one job by hand, and the same jobs whatever the split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.simulate.harness import PRESET, fleet_of, job
from zoetrope.benchmarks.simulate.elastic import gain, main
from zoetrope.benchmarks.simulate.elastic_gangs import ElasticSimulation, GangRules
from zoetrope.benchmarks.simulate.generate import TraceRecipe, generate
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.benchmarks.simulate.workload import preset_named, workload


def simulated(trace: list[TraceJob], *nodes: int, real: bool = False, **rules: Any) -> ElasticSimulation:
    found = ElasticSimulation(
        trace, workload(preset_named(PRESET), trace), fleet_of(*nodes, real=real), GangRules(**rules)
    )
    found.run()
    return found


def ends(trace: list[TraceJob], *nodes: int, **rules: Any) -> list[float | None]:
    return [outcome.done for outcome in simulated(trace, *nodes, **rules).outcomes]


def test_one_job_gets_the_whole_node_where_gangs_are_elastic() -> None:
    # 16 steps of a second on one GPU, and of an eighth on eight.
    trace = [job(0.0, 16)]
    assert ends(trace, 8, split=(8,)) == [pytest.approx(2.0)]
    assert ends(trace, 8, split=(4, 4)) == [pytest.approx(4.0)]
    assert ends(trace, 8, split=(4, 2, 1, 1)) == [pytest.approx(4.0)], "with four GPUs it is in time"
    assert ends(trace, 8) == [pytest.approx(2.0)]


def test_elastic_gangs_share_a_node_and_one_that_is_left_grows() -> None:
    trace = [job(0.0, 16), job(0.5, 32)]
    found = simulated(trace, 8, round=1.0, change=0.0, slo=30.0)
    first, second = (outcome.done for outcome in found.outcomes)
    assert first == pytest.approx(3.0), "half of its steps on the whole node, from 1 on the others on half of it"
    assert second == pytest.approx(6.0), "8 steps on half of the node, then all of it"
    assert found.figures()["size_changes"] == 2


@pytest.mark.parametrize("split", [(8,), (4, 4), (2, 2, 2, 2), (4, 2, 1, 1), ()])
def test_every_job_ends_once_with_every_split(split: tuple[int, ...]) -> None:
    trace = generate(TraceRecipe(rate=0.5, seconds=60.0, arrivals="bursty", burst=5, tenants=3, seed=4))
    found = simulated(trace, 8, 8, real=True, split=split)
    outcomes, figures = found.outcomes, found.figures()
    assert figures["finished"] == len(trace) == len(outcomes)
    assert 0 < figures["busy"] <= 1
    assert all(outcome.latency is not None and outcome.latency > 0.99 * outcome.solo for outcome in outcomes)


def test_the_study_says_whether_it_is_worth_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "elastic"
    assert main(["--nodes", "2", "--hours", "0.02", "--out", str(out)]) == 0
    record = json.loads((tmp_path / "elastic.json").read_text())
    assert (record["runs"][0]["policy"], record["runs"][-1]["policy"]) == ("8", "elastic")
    page = (tmp_path / "elastic.md").read_text()
    assert page in capsys.readouterr().out and "**Prediction: " in page
    assert ("**worth building**" in page) == (gain(record["runs"]) >= 0.15)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--nodes", "200"], "nodes is 200: 1600 GPUs, must be at most 1024"),
        (["--round", "0"], "round is 0.0 and change 0.1: round must be above 0"),
        (["--change", "3"], "round is 2.0 and change 3.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert problem in capsys.readouterr().err
