"""What runs on a lent machine gave, put into the repository: proofs, speeds, tiles and results of one device."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.kernels import merge as merging
from zoetrope.benchmarks.kernels.merge import main, merge
from zoetrope.benchmarks.provenance import COMMIT, code
from zoetrope.kernels.select.proofs import Proof, Speed, load

GPU = "NVIDIA H100 80GB HBM3"
SPEED = Speed("attention", "64k on 64k", 1.2, "sdpa", ("sdpa",), 1e-3, GPU, "2026-01-01T00:00:00Z")
PROOF = Proof(
    *("attention", "gluon", "bf16", 128, "9.0", GPU, "3.6.0", "2.11.0", 1e-3, 1e-2, 12, "f" * 64, "2026-01-01"),
    tiles="",
)


@pytest.fixture(autouse=True)
def same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "fingerprint", lambda module: "f" * 64)
    monkeypatch.setattr(merging, "plot", lambda data, path: "not asked for")


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def results(date: str, *, device: str = GPU, selection: object = None, notice: str | None = None) -> dict[str, Any]:
    known = dict.fromkeys(("driver", "cuda", "cudnn", "torch", "triton", "commit"), "x")
    more = {"packages": {}, "changed": False, "seed": 1, "command": "run", "capability": "9.0", "selection": selection}
    header = {**known, **more, "device": device, "date": date}
    return {"notice": notice, "runs": {date: header}, "correctness": [], "verdicts": [], "rows": []}


def row(run: str, name: str, seconds: float) -> dict[str, Any]:
    rest = {"low": None, "high": None, "runs": 1, "flops": 0.0, "moved": 0.0, "difference": None, "absent": None}
    return {"section": "attention", "case": "self", "name": name, "seconds": seconds, **rest, "run": run}


def finding(run: str, error: float, right: bool) -> dict[str, Any]:
    kernel = {"op": "attention", "backend": "gluon", "dtype": "bf16", "head_dim": 128}
    rest = {"name": "one", "limit": 1e-2, "same_bits": True, "problem": ""}
    return {**kernel, **rest, "error": error, "right": right, "run": run}


def test_processes_for_one_kernel_each_make_one_result(tmp_path: Path) -> None:
    gluon = {"kernels": ["attention/gluon"], "backends": [], "dtypes": []}
    first = {**results("1", selection=gluon), "rows": [row("1", "gluon", 1.0), row("1", "sdpa", 2.0)]}
    second = {**results("1", selection={**gluon, "kernels": ["attention/triton"]}), "rows": [row("1", "triton", 3.0)]}
    second["runs"]["1"]["seed"] = 2  # another process in the same second
    write(tmp_path / "a" / "h100.json", {**first, "correctness": [finding("1", 1e-3, True)]})
    write(tmp_path / "b" / "h100.json", second)
    write(tmp_path / "a" / "data" / "proofs.json", [asdict(PROOF)])
    write(tmp_path / "b" / "data" / "proofs.json", [asdict(replace(PROOF, speeds=(SPEED,)))])
    tile = {"block_m": 64}
    for part, name in (("a", "x"), ("b", "y")):
        write(tmp_path / part / "data" / "tiles-h100.json", {"tiles": {name: tile}, "run": {"device": GPU}})
    out, data = tmp_path / "results", tmp_path / "tree"
    lines = merge([tmp_path / "a", tmp_path / "b"], out, data)
    stored = json.loads((out / "h100.json").read_text())
    assert {(one["name"], one["seconds"]) for one in stored["rows"]} == {("gluon", 1.0), ("sdpa", 2.0), ("triton", 3.0)}
    assert len(stored["runs"]) == 2 and {one["run"] for one in stored["rows"]} == set(stored["runs"])
    assert (out / "h100.md").read_text().startswith("# Kernels")
    (proof,) = load(data / "proofs.json")
    assert proof.speeds == (SPEED,)
    assert json.loads((data / "tiles-h100.json").read_text())["tiles"] == {"x": tile, "y": tile}
    assert all(line.startswith(GPU) for line in lines)
    assert f"{GPU}: attention/gluon bf16 128 is proved, faster than torch on 1 of 1 classes of shapes" in lines


def test_a_whole_run_replaces_the_cases_of_older_ones(tmp_path: Path) -> None:
    old = {**results("1"), "rows": [row("1", "gluon", 1.0), row("1", "sdpa", 2.0)]}
    write(tmp_path / "results" / "h100.json", old)
    write(tmp_path / "a" / "h100.json", {**results("2"), "rows": [row("2", "sdpa", 4.0)]})
    merge([tmp_path / "a"], tmp_path / "results", tmp_path / "tree")
    stored = json.loads((tmp_path / "results" / "h100.json").read_text())
    assert [(one["name"], one["seconds"]) for one in stored["rows"]] == [("sdpa", 4.0)] and list(stored["runs"]) == [
        "2"
    ]


def test_a_kernel_that_was_wrong_anywhere_loses_its_proof(tmp_path: Path) -> None:
    write(tmp_path / "tree" / "proofs.json", [asdict(PROOF)])
    write(tmp_path / "a" / "h100.json", {**results("1"), "correctness": [finding("1", 0.5, False)]})
    write(tmp_path / "b" / "data" / "proofs.json", [asdict(PROOF)])
    lines = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "results", tmp_path / "tree")
    assert load(tmp_path / "tree" / "proofs.json") == []
    assert "WRONG: attention/gluon/bf16/128/9.0" in lines


def test_proofs_of_code_that_has_changed_stay_out(tmp_path: Path) -> None:
    write(tmp_path / "a" / "proofs.json", [asdict(replace(PROOF, fingerprint="e" * 64))])
    (line,) = merge([tmp_path / "a"], tmp_path / "results", tmp_path / "tree")
    assert "is not proved: its code has changed since" in line
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (results("1", device="NVIDIA H100 (fake)"), "nothing was computed there"),
        (results("1", notice="CPU smoke test"), "is no result of a GPU: CPU smoke test"),
        ([], "there are no results, proofs or tiles"),
    ],
)
def test_what_is_of_no_gpu_is_refused(
    value: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a" / "h100.json", value)
    out = tmp_path / "results"
    assert main([str(tmp_path / "a"), "--results", str(out), "--data", str(tmp_path / "tree")]) == 2
    assert said in capsys.readouterr().err and not out.exists() and not (tmp_path / "tree").exists()


def test_the_commit_can_be_named_where_there_is_no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT, "abc123")
    assert code() == {"commit": "abc123", "changed": False}
    monkeypatch.setenv(COMMIT, "abc123-dirty")
    assert code() == {"commit": "abc123", "changed": True}
