"""Every command that works with a model's folder refuses a broken one, with the same words and before it loads it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fixtures.folder_faults import FAULTS, Fault, add, broken, write_bases
from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.cli import main
from zoetrope.serving.cli.doctor import Status, run_checks
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.supervisor import supervisor

ROOT = Path(__file__).parents[3]
SECONDS = 3.0  # beyond imports


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that has to refuse; the one line it says."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: model: ") and captured.err.count("\n") == 1
        return captured.err

    return run


@pytest.fixture(autouse=True)
def no_media_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """`zoetrope doctor` would start one on its way to the model."""
    monkeypatch.setattr("zoetrope.serving.media.sandbox.sandbox.confinement", lambda unsafe: [])


def serve_check(folder: Path, work: Path) -> str:
    with pytest.raises(ModelError) as error:
        supervisor._check(Settings(model=(str(folder),), data_dir=work / "data"))
    assert not (work / "data").exists()
    return str(error.value)


def doctor_check(folder: Path, work: Path) -> str:
    settings = Settings(model=(str(folder),), grpc="127.0.0.1:0", http="127.0.0.1:0", data_dir=work / "data")
    check = next(check for check in run_checks(settings) if check.name == "model")
    assert check.status is Status.FAIL and check.advice
    return check.detail


@pytest.mark.parametrize("name", FAULTS)
def test_a_service_a_local_run_and_doctor_refuse(
    name: str, bases: Path, tmp_path: Path, said: Callable[..., str]
) -> None:
    fault = FAULTS[name]
    folder = broken(bases, fault, tmp_path / "model")
    began = time.monotonic()
    lines = {
        "serve": serve_check(folder, tmp_path),
        "doctor": doctor_check(folder, tmp_path),
        "local": said("generate", "x", "--local", "--model", str(folder), "--out", str(tmp_path / "out.mp4")),
    }
    assert time.monotonic() - began < SECONDS * len(lines)
    for command, line in lines.items():
        assert fault.message in line and str(folder) in line, command


@pytest.mark.parametrize("name", ["no second network", "LTXPipeline", "no flow", "int8", "LoRA", "no tokenizer file"])
def test_the_other_commands_refuse_alike(name: str, bases: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    fault = FAULTS[name]
    folder = str(broken(bases, fault, tmp_path / "model"))
    (tmp_path / "clips").mkdir()
    lines = {
        "private": said("generate", "x", "--model", folder, "--out", str(tmp_path / "out.mp4")),
        "plan": said("plan", "--model", folder),
        "prepare": said(
            "prepare", str(tmp_path / "clips"), str(tmp_path / "set"), "--model", folder, "--size", "64x32"
        ),
        "upcycle": said("upcycle", folder, str(tmp_path / "moe"), "--preset", "wan2.7-27b-wide"),
    }
    for command, line in lines.items():
        assert fault.message in line and folder in line, command


@pytest.mark.parametrize("command", ["serve", "generate"])
def test_in_processes_of_their_own(command: str, bases: Path, tmp_path: Path) -> None:
    """Without a service begun."""
    fault = FAULTS["no second network"]
    folder = broken(bases, fault, tmp_path / "model")
    options = ["--model", str(folder)]
    options += ["--local", "x"] if command == "generate" else ["--data-dir", str(tmp_path / "data")]
    arguments = [sys.executable, "-m", "zoetrope.serving.cli", command, *options]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{folder / 'transformer_2'}: the directory is missing" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "data").exists()


@pytest.fixture
def odd(bases: Path, tmp_path: Path) -> Path:
    """A folder with a key of a trainer, which changes nothing."""
    return broken(bases, Fault("t2v", add("ema_step"), ""), tmp_path / "odd")


def test_a_warning_is_told_once_by_every_command(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.mp4")
    local = ("generate", "a red circle", "--local", "--size", "48x32", "--frames", "5", "--steps", "1", "--out", out)
    with ExitStack() as stack:
        settings = Settings(model=(str(odd),), data_dir=tmp_path / "data", grpc="127.0.0.1:0", http="127.0.0.1:0")
        supervisor._prepare(settings, stack)
    told = [capsys.readouterr().err]
    for arguments in (local, ("plan", "--size", "64x32", "--gpu", "cpu", "--gpus", "1")):
        assert main([*arguments, "--model", str(odd)]) == 0
        told.append(capsys.readouterr().err)
    for text in told:
        assert (
            "".join(text.split()).count("".join(f"warning: {odd / 'transformer'}: the weights hold ema_step".split()))
            == 1
        )


def test_doctor_shows_the_card(odd: Path, tmp_path: Path) -> None:
    settings = Settings(model=(str(odd),), grpc="127.0.0.1:0", http="127.0.0.1:0", data_dir=tmp_path / "data")
    model, warning, card = (check for check in run_checks(settings) if check.name.startswith("model"))
    assert (model.status, warning.status, card.status) == (Status.OK, Status.WARN, Status.OK)
    assert "ema_step" in warning.detail and warning.advice
    assert card.detail.startswith(
        "family wan2.1-t2v-1.3b; text_to_video; size 480p, flow shift 3 (scheduler_config.json;"
    )
    assert "Wan's own code takes 5" in card.detail and card.detail.endswith("...")
    said = next(
        c for c in run_checks(settings.model_copy(update={"family": "bernini-r-1.3b"})) if c.name == "model card"
    )
    assert said.detail.startswith("family bernini-r-1.3b; text_to_video, grid_to_video")


def test_a_family_at_fault_is_named(bases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["generate", "x", "--local"], ["generate", "x"], ["plan"]):
        assert main([*command, "--model", str(bases / "t2v"), "--family", "bernini-r"]) == 2
        assert capsys.readouterr().err.startswith("error: family: bernini-r does not match ")
    assert main(["generate", "x", "--server", "127.0.0.1:1", "--family", "bernini-r"]) == 2
    assert capsys.readouterr().err.startswith("error: family: is about a model that is loaded here")
