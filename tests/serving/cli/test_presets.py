"""`zoetrope models --presets` and `zoetrope upcycle` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.dense_networks import write_dense_ti2v
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import all_presets
from zoetrope.serving.cli import main


def test_all_presets_and_what_a_clip_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--presets", "--size", "480P", "--ratio", "9:16", "--duration", "2", "--ranks", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(all_presets()) <= set(rows)
    assert all(part in rows["wan2.7-27b"] for part in ("27.21 B", "5.01 B", "49", "5,070"))
    assert all(part in rows["wan2.2-t2v-a14b"] for part in ("2 x 14.29 B", "33", "14,040"))
    assert "480x832, 2 s at each preset's frame rate, 4 GPUs" in lines[-1]


def test_the_cost_is_that_of_one_gpu_if_none_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "--presets", "--json"]) == 0
    costs = {preset["name"]: preset for preset in json.loads(capsys.readouterr().out)}
    assert set(costs) == set(all_presets()) and not any("problem" in cost for cost in costs.values())
    large = costs["wan2.2-ti2v-5b"]
    assert large["weight_bytes"] == pytest.approx(2 * large["parameters"], rel=0.01), "all of it, in bfloat16"
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models", "--presets"]) == 0
    shown = capsys.readouterr().out
    assert "1 GPU." in shown and max(map(len, shown.splitlines())) <= 80
    rows = {line.split()[0]: line.split() for line in shown.splitlines()}
    assert rows["wan2.1-i2v-14b-480p"][1:] == ["16.39", "B", "16.39", "B", "75,600", "13", "30.6", "GiB", "17.9", "GiB"]


def test_the_weights_in_8_bits(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for form in ("none", "fp8"):
        assert main(["models", "--presets", "--json", "--quantize", form]) == 0
        costs = {preset["name"]: preset for preset in json.loads(capsys.readouterr().out)}
        sizes.append(costs["wan2.7-27b"]["weight_bytes"])
    assert sizes == [54_448_794_752, 30_582_631_552]
    assert main(["models", "--presets", "--quantize", "fp8"]) == 0
    assert "Weights in bfloat16, those of the middle blocks in fp8" in " ".join(capsys.readouterr().out.split())


def test_ranks_that_do_not_fit_a_preset_are_said_in_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--presets", "--ranks", "8"]) == 0
    rows = capsys.readouterr().out.splitlines()
    (row,) = [line for line in rows if line.startswith("wan2.1-t2v-1.3b")]
    assert "8 ranks do not divide 12 heads" in row


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["models", "--size", "480p"], "size: can only be given together with --presets"),
        (["models", "--quantize", "fp8"], "quantize: can only be given together with --presets"),
        (["models", "--ranks", "2"], "ranks: can only be given together with --presets"),
        (["models", "--presets", "--size", "4k"], "size: '4k' is not one of 480p, 720p, 1080p or WIDTHxHEIGHT"),
        (["models", "--presets", "--size", "4000x64"], "size: '4000x64' must have sides from 24 to 1920"),
        (["models", "--presets", "--ratio", "2:1"], "ratio: '2:1' is not one of 16:9"),
        (["models", "--presets", "--duration", "nan"], "duration: nan must be above 0 and at most 15"),
        (["models", "--presets", "--duration", "16"], "duration: 16.0 must be above 0 and at most 15"),
        (["models", "--presets", "--ranks", "0"], "ranks: must be at least 1"),
        (["upcycle", "absent", "moe"], "model: absent: is not a directory"),
        (["upcycle", "absent", "moe", "--preset", "nano"], "model: preset 'nano' is not one that is derived"),
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1


def test_upcycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_dense_ti2v(tmp_path / "ti2v")
    capsys.readouterr()
    assert main(["upcycle", str(source), str(tmp_path / "moe"), "--preset", "wan2.7-27b"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path / 'moe'}: ")
    assert captured.err.splitlines() == ["reading 0.0 GiB", "writing 0.0 GiB"]
    assert find_model(str(tmp_path / "moe")).conditioner == "first_latent"
    assert main(["upcycle", str(source), str(tmp_path / "moe")]) == 2
    assert capsys.readouterr().err == f"error: model: {tmp_path / 'moe'}: already exists\n"
