"""`zoetrope plan` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.serving.cli import main


@pytest.fixture(autouse=True)
def no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans from the roofline, whatever was measured since."""
    monkeypatch.setattr("zoetrope.cluster.planning.calibration.RESULTS", tmp_path / "results")


def test_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "wan2.7-27b", "--gpus", "8", "--size", "1080p", "--duration", "5"]
    assert main(["plan", *arguments]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "wan2.7-27b on 8 H100s: 2 x 4 (guidance groups x sequence ranks), experts over 4"
    assert lines[1] == "a step: 2 x 63,240 tokens, 1920x1088, 121 frames"
    assert row(lines, "weights, exact") == ["16.3"]
    assert row(lines, "total, of 80.0") == ["27.5"]
    assert row(lines, "experts: rows there and back") == ["NVLink", "15.228"]
    assert any(line.startswith("predicted step (roofline)") for line in lines)
    assert "- One group of 8 would take" in out
    assert "- All ranks are inside one NVLink domain of 8." in lines
    assert any(line.startswith("decoding a clip in bfloat16") for line in lines)
    assert row(lines, "whole frames")[-1] == "chosen"
    device, host, moved = row(lines, "8 tiles of 528x576, their caches in host memory")
    assert (device, host, moved) == ("7.5", "8.1", "477.7")


def test_ways_to_decode_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_t2v(tmp_path / "wan")
    arguments = ["--model", str(tmp_path / "wan"), "--gpus", "1", "--size", "64x32", "--gpu", "h200", "--json"]
    assert main(["plan", *arguments]) == 0
    plan = json.loads(capsys.readouterr().out)
    (way,) = plan["decode"]
    assert (way["dtype"], way["tiles"], way["caches"]) == ("float32", 1, "device"), "the network is narrow"
    assert way["chosen"] and way["fits"]
    latents = 4 * 16 * (1 + (plan["frames"] - 1) // 4) * 4 * 8
    assert way["moved_bytes"] == latents + 3 * plan["frames"] * 64 * 32


def test_settings_of_the_decoder_are_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOETROPE_VAE_TILES", "some")
    assert main(["plan", "--gpus", "1", "--gpu", "cpu"]) == 2
    expected = "error: decoding: ZOETROPE_VAE_TILES is 'some', it must be one of auto, never, always"
    assert capsys.readouterr().err.startswith(expected)


def test_weights_in_8_bits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--model", "wan2.7-27b", "--gpus", "8", "--size", "1080p", "--duration", "5"]
    assert main([*arguments, "--quantize", "fp8"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].endswith("experts over 4, weights in fp8")
    assert row(lines, "weights, exact") == ["9.4"], "16.3 otherwise"
    assert row(lines, "experts: rows there and back") == ["NVLink", "11.840"], "15.228 otherwise"
    assert "- Blocks 3 to 27 of 30 are in fp8, the others as they are." in out
    monkeypatch.setenv("ZOETROPE_QUANTIZE", "fp8")
    assert main(arguments) == 0
    assert capsys.readouterr().out == out
    assert main([*arguments, "--quantize", "fp6"]) == 2
    assert capsys.readouterr().err == "error: quantize: 'fp6' must be none or fp8\n"


def test_nano_on_this_machine_and_a_checkpoint_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpus", "1", "--gpu", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nano on 1 CPU: 1 x 1 (guidance groups x sequence ranks)"
    assert "40x24, 17 frames" in lines[1]
    assert not any(line.startswith(("on the wire", "decoding")) for line in lines)
    write_t2v(tmp_path / "wan")
    assert main(["plan", "--model", str(tmp_path / "wan"), "--gpus", "2", "--size", "64x32", "--gpu", "h200"]) == 0
    assert capsys.readouterr().out.startswith("wan on 2 H200s: 2 x 1")
    assert main(["plan", "--model", str(tmp_path / "wan"), "--quantize", "fp8"]) == 2
    assert capsys.readouterr().err.startswith("error: quantize: fp8 is not possible for wan: num_layers is 2: ")


def test_two_gangs_for_noise_experts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "wan2.2-t2v-a14b", "--gpus", "1", "--size", "1080p"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("wan2.2-t2v-a14b on 1 H100, twice: ")
    assert "- The noise experts live apart, on two gangs of 1" in out


def test_a_small_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "wan2.1-t2v-14b", "--gpu-memory", "24"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "wan2.1-t2v-14b on one RTX4090 with 24 GiB: predicted, not measured"
    assert "26 of 40 blocks streamed" in next(line for line in lines if line.startswith("480p"))
    assert next(line for line in lines if line.startswith("1080p")).split()[-3:] == ["does", "not", "fit"]
    assert "at 22 GB/s (assumed): that is free from 6,500 tokens a pass on." in out
    assert main(["plan", "wan2.2-t2v-a14b", "--gpu-memory", "48", "--gpu", "a100", "--quantize", "fp8", "--json"]) == 0
    small, *_ = json.loads(capsys.readouterr().out)["sizes"]
    assert small["size"] == "480p" and small["fits"] and small["streamed_blocks"] == 0
    assert main(["plan", "wan2.2-t2v-a14b", "--gpu-memory", "48", "--offload", "always", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["sizes"]
    assert [row["streamed_blocks"] for row in rows] == [40, 40, 40]
    assert rows[0]["host_bytes"] > 56e9 and rows[0]["weight_bytes"] < 4e9


def test_a_small_gpu_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_t2v(tmp_path / "wan")
    assert main(["plan", "--model", str(tmp_path / "wan"), "--gpu-memory", "80", "--size", "64x32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu"] == "h100" and [row["size"] for row in found["sizes"]] == ["64x32", "480p", "720p", "1080p"]


def test_a_card_is_planned_as_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOETROPE_MODELS_DIR", str(tmp_path))
    (tmp_path / "quick.toml").write_text('model = "nano"\nquantize = "fp8"\noffload = "always"\n')
    assert main(["plan", "quick", "--gpu-memory", "24"]) == 0
    said = capsys.readouterr().out
    assert "with 24 GiB, weights in fp8: predicted" in said and "streamed" in said
    weights = []
    for model in ("nano", "quick"):
        assert main(["plan", model, "--gpus", "1", "--gpu", "h100", "--json"]) == 0
        weights.append(json.loads(capsys.readouterr().out)["memory"]["weights"])
    assert weights[1] < weights[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--gpu-memory", "2"], "gpu-memory: 2 must be 4 to 1024 GiB"),
        (["--gpu-memory", "nan"], "gpu-memory: nan must be 4 to 1024 GiB"),
        (["--gpu-memory", "24", "--gpu", "cpu"], "gpu: 'cpu' has no memory of its own: leave --gpu-memory away"),
        (["--gpu-memory", "24", "--gpus", "2"], "gpus: cannot be given together with --gpu-memory, which is about one"),
        (["--offload", "always"], "offload: needs --gpu-memory"),
        (["--gpu-memory", "24", "--steps", "4"], "steps: cannot be given together with --gpu-memory"),
        (["--gpu-memory", "24", "--size", "4k"], "size: '4k' is not one of"),
        (["--gpu-memory", "24", "--offload", "sometimes"], "offload: 'sometimes' must be auto, never or always"),
        (["--model", "wan2.7-27b", "--gpus", "6"], "gpus: 6 ranks do not divide 24 heads x 80 experts; 2 groups of 3"),
        (
            ["--model", "wan2.7-27b", "--gpus", "1", "--size", "1080p"],
            "gpus: 1 rank: needs 90.5 GiB per rank of 80.0 (50.7 weights, 32.8 activations); 2 ranks or 720p would",
        ),
        (["--gpus", "0"], "gpus: 0 is not at least 1"),
        (["--nvlink", "0"], "nvlink: 0 is not at least 1"),
        (["--gpu", "b200"], "gpu: 'b200': it must be one of h100, h200, a100, l40s, rtx4090, cpu"),
        (["--size", "4k"], "size: '4k' is not one of 480p, 720p, 1080p or WIDTHxHEIGHT"),
        (["--ratio", "2:1"], "ratio: '2:1' is not one of 16:9"),
        (["--duration", "0"], "duration: 0.0 must be above 0 and at most 15"),
        (["--duration", "nan"], "duration: nan must be above 0 and at most 15"),
        (["--model", "absent"], "model: 'absent' is neither a preset (wan2.7-27b, "),
        (["--model", "x" * 300], "model: xxxxxxxxxx"),
        (["--model", "/x" * 3_000], "model: /x/x/x/x"),
        (["--gpus", "many"], "gpus: "),
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert main(["plan", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: model: ")


def row(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(name)]
    return line.removeprefix(name).split()
