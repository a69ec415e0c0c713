"""A service that the benchmark starts itself: two policies one after the other, and processes that are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.serving_load.__main__ import main

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def record_of(out: Path, *arguments: str) -> dict[str, Any]:
    assert main(["--start", "nano", "--warm-up", "0", "--quiet", "--out", str(out), *arguments]) == 0
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return found


def test_policies_get_one_trace_at_shares_of_one_capacity(tmp_path: Path) -> None:
    policies = ["--policy", "fifo", "--policy", "fair", "--tenants", "2"]
    found = record_of(tmp_path / "load", *policies, "--load", "0.8", "--jobs", "6")
    first, second = found["points"]
    assert (first["policy"], second["policy"], found["capacity"]["policy"]) == ("fifo", "fair", "fifo")
    assert first["rate"] == second["rate"] == pytest.approx(0.8 * found["capacity"]["per_second"])
    assert [row["arrival"] for row in first["each"]] == [row["arrival"] for row in second["each"]]
    for point in (first, second):
        figures = point["figures"]
        assert figures["succeeded"] == 6 and figures["gpus"] == 1
        assert 0 < figures["gpu_busy_share"] < 1 and figures["tokens_per_second"] > 0
        assert figures["queued"]["count"] == 6 and {row["tenant"] for row in figures["tenants"]} <= {
            "tenant-1",
            "tenant-2",
        }
        assert {stay["engine"] for stay in point["timeline"]} == {"engine 1"}, "each tenant sees its own jobs on it"


def test_nothing_is_lost_when_a_rank_and_the_router_are_killed(tmp_path: Path) -> None:
    kinds = tmp_path / "kinds.jsonl"
    kinds.write_text('{"task": "text_to_video", "size": "96x64", "frames": 17, "steps": 60}\n')
    faults = ["--fault", "kill-rank@2", "--fault", "kill-router@4"]
    found = record_of(tmp_path / "faults", "--mix", str(kinds), "--rate", "2", "--jobs", "8", *faults)
    (point,) = found["points"]
    cost = point["faults"]
    assert (cost["accepted"], cost["lost"], cost["failed"]) == (8, 0, 0)
    assert [struck["what"] for struck in cost["struck"]] == ["killed rank (1 process)", "killed router (1 process)"]
    assert all(struck["hit"] and struck["under_way"] > 0 for struck in cost["struck"])
    assert cost["steps_needed"] == 8 * 60 and 0 < cost["steps_redone"] < 8 * 60
    assert point["figures"]["succeeded"] == 8
