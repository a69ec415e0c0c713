"""Results of a GPU day in the repository: what is written, under whose name, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.command import write_json
from zoetrope.benchmarks.gpu_day import archive
from zoetrope.benchmarks.gpu_day.merge import Refused, device_file, merge
from zoetrope.benchmarks.gpu_day.outcome import StageOutcome, sha256
from zoetrope.benchmarks.kernels.contenders import ContenderRow
from zoetrope.kernels.select.fingerprint import fingerprint
from zoetrope.kernels.select.proofs import MODULES, Proof, load, record
from zoetrope.model.denoising.graph_proofs import GraphProof, GraphTiming
from zoetrope.model.denoising.graph_proofs import load as proofs_of_graphs

DEVICE = "NVIDIA H100 80GB HBM3"


def header(date: str, device: str = DEVICE) -> dict[str, Any]:
    known = dict.fromkeys(("driver", "cuda", "cudnn", "torch", "triton"), "x") | {"capability": "9.0"}
    return {
        **known,
        "packages": {},
        "commit": "abc",
        "changed": False,
        "seed": 1,
        "command": "run",
        "device": device,
        "date": date,
    }


def results(
    date: str, *rows: ContenderRow, device: str = DEVICE, wrong: str = "", notice: str | None = None
) -> dict[str, Any]:
    entry = {"op": wrong, "backend": "triton", "dtype": "bf16", "head_dim": None, "name": "a case", "error": 1.0}
    entry |= {"limit": 1e-2, "same_bits": True, "problem": "", "right": False, "run": date}
    return {
        "notice": notice,
        "runs": {date: header(date, device)},
        "correctness": [entry] if wrong else [],
        "verdicts": [],
        "rows": [{**row.as_dict(), "run": date} for row in rows],
    }


def proof(op: str, source: str | None = None) -> Proof:
    mark = fingerprint(MODULES[op, "triton"]) if source is None else source
    return Proof(op, "triton", "bf16", None, "9.0", DEVICE, "3.6.0", "2.11.0", 1e-3, 1e-2, 9, mark, "2026-01-01")


def put(
    work: Path, stage: str, files: dict[str, Any], *, device: str = DEVICE, dry_run: bool = False, started: str = "1"
) -> None:
    folder = work / stage
    for name, value in files.items():
        write_json(folder / name, value)
    digests = {name: sha256(folder / name) for name in files}
    outcome = StageOutcome(stage, "passed", "", dry_run, device, "abc", ("python",), 0, started, 1.0, 9.0, digests, "")
    outcome.write(folder)


def packed(work: Path) -> Path:
    archive.pack(work, work.parent / "back" / archive.NAME)
    return work.parent / "back" / archive.NAME


def graphs_of(device: str) -> dict[str, Any]:
    row = GraphTiming(4096, 0.2, 0.1, 0.0)
    made = GraphProof("d1", device, "2.11.0", "3.6.0", "f", "d", (row,))
    return {"networks": [{"preset": "wan2.7-27b", "quantize": "none", "rows": [asdict(row)], "proof": asdict(made)}]}


def step(preset: str, size: str, seconds: float) -> dict[str, Any]:
    row = {"preset": preset, "size": size, "frames": 81, "tokens": 32760, "forwards": 2, "seconds": seconds}
    return {
        "command": "c",
        "device": DEVICE,
        "torch": "2.11.0",
        "dtype": "bf16",
        "quantize": "none",
        "rows": [{**row, "peak_gib": 40.0}],
    }


def test_proofs_tiles_tables_and_plots_get_the_name_of_the_device(tmp_path: Path) -> None:
    work, out, data = tmp_path / "work", tmp_path / "results", tmp_path / "data"
    record([proof("combine"), proof("routing", "old")], path=data / "proofs.json")
    bound = ContenderRow("bounds", "product", "cuBLAS bfloat16", 1.0, flops=8e14)
    slow, fast = (ContenderRow("moe", "ffn", "triton", seconds, 1.0, 1.0, 9, flops=1e14) for seconds in (0.5, 0.25))
    put(
        work,
        "correct-router_logits-triton",
        {"kernels/h100.json": results("1"), "data/proofs.json": [asdict(proof("router_logits"))]},
    )
    put(work, "correct-residual_norm-triton", {"data/proofs.json": [asdict(proof("residual_norm", "edited"))]})
    put(work, "correct-combine-triton", {"kernels/h100.json": results("1", wrong="combine")})
    put(work, "time-moe", {"kernels/h100.json": results("3", bound, fast)}, started="3")
    put(work, "time-layer", {"kernels/h100.json": results("2", slow)}, started="2")
    put(work, "tune", {"data/tiles-h100.json": {"run": header("4"), "tiles": {"b": {"rows": 2}}}}, started="4")
    put(work, "step-a14b-480p", {"step.json": step("wan2.2-t2v-a14b", "480p", 5.5)})
    decoded = {"vae": "wan2.1", "size": "480p", "dtype": "bfloat16", "way": "whole", "clip_seconds": 2.5, "error": None}
    put(work, "decode", {"decode.json": {"rows": [decoded]}})
    raced = {"tool": "racecheck", "kernel": "gluon", "summary": "0 hazards"}
    put(work, "sanitizer", {"sanitizer.json": {"rows": [raced]}})
    put(work, "graphs", {"graphs.json": graphs_of(DEVICE)})
    write_json(data / "tiles-h100.json", {"run": header("0"), "tiles": {"a": {"rows": 1}, "b": {"rows": 1}}})

    graphs = tmp_path / "graphs.json"
    lines = merge(packed(work), out, data, graphs)

    assert [one.tokens for one in proofs_of_graphs(graphs)] == [4096] and "d1: CUDA graphs up to 4096 tokens" in lines
    assert any(line.startswith(f"{DEVICE}: router_logits/triton bf16 is proved") for line in lines)
    assert f"{DEVICE}: residual_norm/triton bf16 is not proved: its code has changed since" in lines
    assert "WRONG: combine/triton/bf16/None/9.0" in lines and len(set(lines)) == len(lines)
    assert [one.op for one in load(data / "proofs.json")] == ["router_logits", "routing"], (
        "a wrong kernel loses its proof"
    )
    assert json.loads((data / "tiles-h100.json").read_text())["tiles"] == {"a": {"rows": 1}, "b": {"rows": 2}}
    stored = json.loads((out / "kernels" / "h100.json").read_text())
    assert [(row["name"], row["seconds"], row["run"]) for row in stored["rows"]] == [
        ("cuBLAS bfloat16", 1.0, "3"),
        ("triton", 0.25, "3"),
    ]
    assert sorted(stored["runs"]) == ["1", "3"] and DEVICE in (out / "kernels" / "h100.md").read_text()
    page = (out / "gpu-day" / "h100.md").read_text()
    assert f"A day with a GPU: {DEVICE}" in page and "| wan2.2-t2v-a14b 480p | measured by us |" in page
    for line in (
        "| FastVideo | published by LightX2V, not measured by us | 1 x H100 | 7.35 |",
        "| tune | passed |",
        "| wan2.1 | 480p | bfloat16 | whole |  | 2.500 |  |  |  |",
        "| racecheck | gluon | 0 hazards |",
        "| wan2.7-27b | none | 4096 | 0.200 | 0.100 |",
    ):
        assert line in page
    for picture in (out / "kernels" / "h100.png", out / "gpu-day" / "h100.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")

    assert merge(packed(work), out, data, graphs)[-1].startswith("wrote"), "merging twice changes nothing"
    assert json.loads((out / "kernels" / "h100.json").read_text()) == stored


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dry_run": True}, "was a dry run"),
        ({"device": "fake Hopper, nothing computed"}, "it must be a GPU"),
        ({"device": "NVIDIA H200"}, "ran on NVIDIA H100 80GB HBM3 and NVIDIA H200"),
        ({"files": {"kernels/h100.json": results("1", device="another GPU")}}, "is of another GPU, not of NVIDIA H100"),
        ({"files": {"kernels/h100.json": results("1", notice="CPU smoke test")}}, "is of CPU smoke test"),
        ({"files": {"graphs.json": graphs_of("another GPU")}}, "is of another GPU, not of NVIDIA H100"),
    ],
)
def test_what_is_no_measurement_is_refused_whole(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    given = {"files": {"data/proofs.json": [asdict(proof("combine"))]}, **change}
    if "fake" not in str(given.get("device")):
        put(tmp_path / "work", "cache", {"cache.json": {}}, dry_run=bool(given.get("dry_run")))
    put(tmp_path / "work", "correct-combine-triton", **given)
    with pytest.raises(Refused, match=said):
        merge(packed(tmp_path / "work"), tmp_path / "results", tmp_path / "data", tmp_path / "graphs.json")
    assert not (tmp_path / "graphs.json").exists()
    assert not (tmp_path / "results").exists() and not (tmp_path / "data").exists()


def test_an_archive_without_outcomes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(Refused, match="no valid outcome"):
        merge(packed(tmp_path / "work"), tmp_path / "results", tmp_path / "data")


def test_files_are_named_like_tables_of_tiles() -> None:
    assert device_file("NVIDIA H200") == "h200" and device_file("NVIDIA L40S") == "nvidia-l40s"
