"""`zoetrope doctor` and the commands that need neither a server nor a GPU."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from zoetrope.model.families.nano import NANO_DIRECTORY
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.cli import main
from zoetrope.serving.cli.doctor import Check, Status, run_checks
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.media.sandbox.sandbox import confinement


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(grpc="127.0.0.1:0", http="127.0.0.1:0", data_dir=tmp_path / "data")


def find(settings: Settings, name: str) -> Check:
    return next(check for check in run_checks(settings) if check.name == name)


def test_healthy(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--grpc", settings.grpc, "--http", settings.http, "--data-dir", str(settings.data_dir)]
    assert main(["doctor", *options]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["check", "status", "found"]
    assert max(map(len, rows)) <= 100
    statuses = {row.split("  ")[0]: row[14:].split()[0] for row in rows if not row.startswith(" ")}
    expected = {"python", "packages", "device", "memory", "codecs", "model", "data dir", "grpc port", "http port"}
    assert {*expected, "media sandbox"} <= set(statuses)
    assert "fail" not in statuses.values()
    assert not settings.data_dir.exists(), "looking makes nothing"


def test_advice_for_everything_that_is_not_well(settings: Settings) -> None:
    assert all(check.advice for check in run_checks(settings) if check.status is not Status.OK)


def test_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--host", "localhost", "--port", "0", "--data-dir", str(settings.data_dir)]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {check["status"] for check in checks} <= {"ok", "warn"}
    (port,) = [check for check in checks if check["name"] == "http port"]
    assert port == {"name": "http port", "status": "ok", "detail": "localhost:0 is free", "advice": ""}


def test_weights_in_8_bits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    fp8 = settings.model_copy(update={"quantize": "fp8"})
    check = find(fp8, "quantize")
    assert check.status is Status.OK and check.detail.startswith("Blocks 2 to 4 of 5 are in fp8")

    def refuse(card: ModelCard) -> None:
        raise ModelError("quantize: fp8 needs another GPU")

    monkeypatch.setattr("zoetrope.model.checkpoints.load.check_gpu", refuse)
    check = find(fp8, "quantize")
    assert (check.status, check.detail) == (Status.FAIL, "quantize: fp8 needs another GPU")
    assert "--quantize" in check.advice


def test_a_misspelt_variable(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(settings, "variables").status is Status.OK
    monkeypatch.setenv("ZOETROPE_MODLE", "nano")
    check = find(settings, "variables")
    assert check.status is Status.WARN and "did you mean ZOETROPE_MODEL?" in check.detail


def test_broken_model(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = shutil.copytree(NANO_DIRECTORY, tmp_path / "mine")
    weights = mine / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    check = find(settings.model_copy(update={"model": (str(mine),)}), "model")
    assert check.status is Status.FAIL
    assert check.detail.startswith(f"{weights}: cannot be read as safetensors")
    assert main(["doctor", "--model", str(mine)]) == 1
    assert "restore the file" in capsys.readouterr().out


def test_kernels(settings: Settings) -> None:
    check = find(settings, "kernels")
    assert check.status is Status.OK
    assert "attention=sdpa" in check.detail
    assert "grouped_gemm=torch" in check.detail
    asked = find(settings.model_copy(update={"kernels": "attention=reference"}), "kernels")
    assert "attention=reference" in asked.detail
    wrong = find(settings.model_copy(update={"kernels": "attention=fastest"}), "kernels")
    assert wrong.status is Status.FAIL
    assert "attention has no implementation 'fastest'" in wrong.detail
    assert wrong.advice == "change ZOETROPE_KERNELS"


def test_media_sandbox(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    check = find(settings, "media sandbox")
    assert check.status is Status.OK
    assert "holds: no new privileges" in check.detail and "system call filter" in check.detail
    # As on a machine without the filter.
    layers = [replace(layer, holds=layer.holds and layer.name != "system call filter") for layer in confinement()]
    layers = [layer if layer.holds else replace(layer, note="Invalid argument") for layer in layers]
    monkeypatch.setattr("zoetrope.serving.media.sandbox.sandbox.confinement", lambda unsafe: layers)
    check = find(settings, "media sandbox")
    assert (check.status, "system call filter (Invalid argument)" in check.detail) == (Status.FAIL, True)
    assert check.advice.startswith("a service needs system call filter (Invalid argument)")
    assert check.advice.endswith("--unsafe-media")
    check = find(settings.model_copy(update={"unsafe_media": True}), "media sandbox")
    assert (check.status, "take only those that you trust" in check.advice) == (Status.WARN, True)


def test_unknown_model(settings: Settings) -> None:
    check = find(settings.model_copy(update={"model": ("nobody",)}), "model")
    assert (check.status, "neither a preset" in check.detail) == (Status.FAIL, True)


def test_taken_port_is_a_warning(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        check = find(settings.model_copy(update={"http": address}), "http port")
    assert check.status is Status.WARN
    assert "--http" in check.advice


def test_data_dir_below_a_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = find(settings.model_copy(update={"data_dir": tmp_path / "file" / "data"}), "data dir")
    assert check.status is Status.FAIL
    assert "--data-dir" in check.advice


def test_packages(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against whatever our metadata asks for."""
    wanted = ["numpy>=2", "numpy<1; extra == 'serve'", "no-such-package>=3", "pytest<1; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    check = find(settings, "packages")
    assert check.status is Status.FAIL
    version = importlib.metadata.version("numpy")
    assert check.detail == f"numpy is {version}, needs <1; no-such-package is missing"


def test_the_packages_of_a_service_are_checked(settings: Settings) -> None:
    check = find(settings, "packages")
    assert check.status is Status.OK
    assert {"torch", "ray", "diffusers", "grpcio"} <= set(check.detail.replace(",", "").split())


def test_models_lists_the_presets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOETROPE_SERVER", raising=False)
    assert main(["models"]) == 0
    header, row, few = capsys.readouterr().out.splitlines()
    assert header.startswith("model")
    assert row.split()[:3] == ["nano", "-", "text_to_video,"]
    assert "40x24" in row and few.split()[0] == "nano-4step"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"]], ids=" ".join)
def test_information(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "zoetrope" in capsys.readouterr().out
