"""Whatever is wrong with a command line: one line on standard error that names the option, and exit code 2."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.serving.gateway.harness import ROOT
from zoetrope.model.families.nano import NANO_DIRECTORY
from zoetrope.serving.cli import main

Run = Callable[..., str]
LONG = "a" * 5_001


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must fail; its line without the "error: "."""

    def run(*arguments: str, code: int = 2) -> str:
        assert main(arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("error: ").rstrip("\n")

    return run


# Arguments after `generate`, and how the line begins.
BAD_REQUESTS: list[tuple[Sequence[str], str]] = [
    (["x", "--duration", "0"], "duration: 0.0 must be above 0 and at most 15"),
    (["x", "--duration", "16"], "duration: 16.0 must be above 0 and at most 15"),
    (["x", "--duration", "-1"], "duration: -1.0 must be above 0"),
    (["x", "--duration", "nan"], "duration: nan must be above 0"),
    (["x", "--duration", "inf"], "duration: inf must be above 0"),
    (["x", "--frames", "0"], "frames: 0 must be from 1 to 120"),
    (["x", "--frames", "121"], "frames: 121 must be from 1 to 120"),
    (["x", "--frames", "8", "--duration", "1"], "frames: 8 cannot be combined with"),
    ([""], "prompt: is empty"),
    ([" \n"], "prompt: is empty"),
    ([LONG], "prompt: has 5001 characters, at most 5000"),
    (["a\x07b"], "prompt: has the control character U+0007"),
    (["x", "--negative", "b\x00"], "negative: has the control character U+0000"),
    (["x", "--negative", LONG], "negative: has 5001 characters, at most 500"),
    (["x", "--size", "4k"], "size: '4k' is not one of 480p, 720p, 1080p or WIDTHxHEIGHT"),
    (["x", "--size", "0x0"], "size: '0x0' must have sides from"),
    (["x", "--size", "101x64"], "size: 101x64 has an odd side"),
    (["x", "--ratio", "2:1"], "ratio: '2:1' is not one of 16:9"),
    (["x", "--seed", "9223372036854775808"], "seed: 9223372036854775808 must be from 0 to 9223372036854775807, or "),
    (["x", "--seed", "-2"], "seed: -2 must be from 0"),
    (["x", "--fit", "stretch"], "fit: 'stretch' must be 'cover' or 'contain'"),
    (["x", "--flow-shift", "0"], "flow-shift: 0.0 must be from 0.01 to 100"),
    (["x", "--flow-shift", "inf"], "flow-shift: inf must be from 0.01"),
    (["x", "--out", "a.PNG", "--frames", "2"], "out: png holds one frame, but 2 are asked for"),
    (["x", "--out", "a.jpeg", "--duration", "1"], "out: jpg holds one frame, but 8 are asked for"),
    (["x", "--out", "a.webp", "--audio", "a.wav"], "audio: cannot read a.wav: No such file or directory"),
    (["x", "--steps", "0"], "steps: 0 must be from 1 to 1000"),
    (["x", "--steps", "1001"], "steps: 1001 must be from 1 to 1000"),
    (["x", "--guidance", "nan"], "guidance: nan must be from 0 to 30"),
    (["x", "--fps", "0"], "fps: 0 must be from 1 to 60"),
    (["x", "--model", "nobody"], "model: 'nobody' is neither a preset (nano, nano-4step) nor a directory"),
    (["x", "--out", "clip.avi"], "out: 'clip.avi' does not end in one of .mp4, .mkv, .png, .webp, .jpg, .jpeg"),
    (["x", "--latents-out", "clip.npy"], "latents-out: 'clip.npy' does not end in .safetensors"),
]


@pytest.mark.parametrize("local", [True, False], ids=["local", "private"])
@pytest.mark.parametrize(("arguments", "line"), BAD_REQUESTS, ids=[line for _, line in BAD_REQUESTS])
def test_request(
    arguments: Sequence[str], line: str, local: bool, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before a model is loaded or a private service started."""

    def start(*_: object) -> None:
        raise AssertionError("a service was started")

    monkeypatch.setattr("zoetrope.serving.cli.service.private_service", start)
    assert refused("generate", *arguments, *(["--local"] if local else [])).startswith(line)


def test_all_fields_at_fault_are_told_at_once(refused: Run) -> None:
    line = refused("generate", "x", "--local", "--steps", "0", "--seed", "-2", "--ratio", "5:4")
    assert [part.split(":")[0] for part in line.split("; ")] == ["steps", "seed", "ratio"]


def test_local_checks_come_before_torch() -> None:
    code = (
        "import sys; from zoetrope.serving.cli import main\n"
        "codes = [main(['generate', 'x', '--local', *a]) for a in (['--steps', '0'], ['--model', 'nobody'])]\n"
        "print(codes, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[2, 2] False False\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate"], "prompt: is empty"),
        (["generate", "x", "--steps", "many"], "steps: must be an integer"),
        (["generate", "x", "--steps"], "Option '--steps' requires an argument"),
        (["generate", "x", "--pace", "3"], "No such option: --pace"),
        (["generate", "x", "y"], "Got unexpected extra argument"),
        (["generate", "x", "--local", "--server", "127.0.0.1:1"], "local: cannot be used together with --server"),
        (["generate", "x", "--server", "here"], "server: 'here' must be HOST:PORT"),
        (["dance"], "No such command 'dance'"),
        (["help", "dance"], "No such command 'dance'"),
        (["jobs", "--limit", "0"], "limit: must be at least 1"),
        (["jobs", "--server", "127.0.0.1:70000"], "server: '127.0.0.1:70000' must be HOST:PORT"),
        (["download", "vid_1"], "out: name a file with --out or --latents-out"),
        (["download", "vid_1", "--latents-out", "x.mp4"], "latents-out: 'x.mp4' does not end in .safetensors"),
        (["serve", "--ranks", "0"], "ranks: 0 must be at least 1"),
        (["serve", "--grpc", "50051"], "grpc: '50051' must be HOST:PORT"),
        (["serve", "--http", "127.0.0.1:"], "http: '127.0.0.1:' must be HOST:PORT"),
        (["doctor", "--grpc", "50051"], "grpc: '50051' must be HOST:PORT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage(arguments: Sequence[str], line: str, refused: Run) -> None:
    assert refused(*arguments).startswith(line)


def test_setting_from_the_environment(refused: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_RANKS", "none")
    assert refused("serve").startswith("ZOETROPE_RANKS: 'none' must be an integer")


def test_taken_port(refused: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert refused("serve", "--grpc", address) == f"grpc: cannot listen at {address}: Address already in use"


def test_outputs_that_cannot_be_written(refused: Run, tmp_path: Path) -> None:
    folder = tmp_path / "clip.mp4"
    folder.mkdir()
    assert refused("generate", "x", "--local", "--out", str(folder)) == f"out: '{folder}' is a folder"
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "clip.mp4"
    assert refused("generate", "x", "--local", "--out", str(below)).startswith("out: the folder ")


def test_no_server(refused: Run, tmp_path: Path) -> None:
    """Told at once, as a failure and not as bad input."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = f"127.0.0.1:{listener.getsockname()[1]}"
    out = str(tmp_path / "x.mp4")
    for command in (["generate", "x", "--out", out], ["jobs"], ["watch", "vid_1"], ["cancel", "vid_1"], ["models"]):
        assert refused(*command, "--server", server, code=1).startswith(f"no answer from {server}: ")


FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/model.safetensors",
    "tokenizer",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """nano as a checkpoint folder of one's own; it takes any size that is a multiple of 16."""
    return Path(shutil.copytree(NANO_DIRECTORY, tmp_path / "mine"))


@pytest.mark.parametrize("local", [True, False], ids=["local", "private"])
@pytest.mark.parametrize("name", FILES)
def test_missing_file(name: str, local: bool, checkpoint: Path, refused: Run) -> None:
    path = checkpoint / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    line = refused("generate", "x", "--size", "128x64", "--model", str(checkpoint), *(["--local"] if local else []))
    assert line == f"model: {path}: the {'directory' if name == 'tokenizer' else 'file'} is missing"


@pytest.mark.parametrize("name", [name for name in FILES if "." in name])
def test_cut_file(name: str, checkpoint: Path, refused: Run) -> None:
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = refused("generate", "x", "--size", "128x64", "--model", str(checkpoint), "--local")
    assert line.startswith(f"model: {path}: cannot be read as ")


def test_weights_that_overflow(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told with the model's name, and without the number by which a run knows its segment."""
    path = checkpoint / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["proj_out.weight"] = torch.full_like(weights["proj_out.weight"], 3e38, dtype=torch.float32)
    save_file(weights, path)
    (checkpoint / "step_ratios.json").unlink()  # of other weights
    arguments = ["generate", "x", "--size", "128x64", "--frames", "1", "--model", str(checkpoint), "--local"]
    assert main([*arguments, "--out", str(tmp_path / "x.mp4")]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "error: mine: the network gave values that are not finite"
    assert not (tmp_path / "x.mp4").exists()


def test_serve_with_a_broken_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """A process of its own, for a service handles signals."""
    path = checkpoint / "vae" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    options = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
    command = [sys.executable, "-m", "zoetrope.serving.cli", "serve", "--model", str(checkpoint), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {path}: the file is missing\n"
