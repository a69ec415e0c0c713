"""`zoetrope gateway`, `zoetrope settings`, and the options of `zoetrope serve` that can be judged at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cli import main
from serving.cli.service import private_env
from serving.client import VideoClient
from serving.settings import Settings
from tests.serving.gateway.harness import MODEL, ROOT, write_checkpoint


def test_a_gateway_alone(tmp_path: Path) -> None:
    """It does not end with its standard input, which services that a system starts do not have."""
    options = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
    model = str(write_checkpoint(tmp_path / MODEL))
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.cli", "gateway", "--model", model, *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        match = re.fullmatch(r"ready grpc=(\S+) http=(\S+)\n", process.stdout.readline())
        assert match, process.communicate()[1]
        with VideoClient(match[1]) as client:
            name = client.create(prompt="x")
            assert client.get(name).state == "queued"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, "Traceback" in errors) == (0, False)
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--tls-cert", "c.pem"], "tls-key: is missing; a certificate and its key belong together"),
        (["--tls-key", "k.pem"], "tls-cert: is missing; a certificate and its key belong together"),
        (["--tls-client-ca", "c.pem"], "tls-client-ca: needs --tls-cert and --tls-key"),
        (["--keys", "never"], "keys: 'never': "),
        (["--grpc", "50051"], "grpc: '50051' is not HOST:PORT"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["serve", "gateway"])
def test_bad_options(command: str, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1


def test_a_number_of_gateways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--gateways", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: gateways: 0: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--grpc", "0.0.0.0:0"], "grpc, http: others can connect to an address that is not of this machine alone"),
        (["--tls-cert", "none.pem", "--tls-key", "none.key"], "tls_cert, tls_key, tls_client_ca: cannot be used: "),
        (["--database", "mysql://me:secret@host/x"], "a database URL starts with sqlite:/// or postgresql://"),
        (["--model", "nobody"], "model 'nobody' is neither a preset"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_gateway_that_does_not_start(arguments: list[str], line: str, tmp_path: Path) -> None:
    """A process of its own, for a gateway handles signals and logs."""
    base = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--model", "nano"]
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", "gateway", *base, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {line}")
    assert "secret" not in done.stderr


def test_settings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_DATABASE", "postgresql://me:hush@db.example/jobs?password=hush")
    monkeypatch.setenv("ZOETROPE_MAX_QUEUED", "77")
    assert main(["settings"]) == 0
    out = capsys.readouterr().out
    shown = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert {f"ZOETROPE_{name.upper()}" for name in Settings.model_fields} <= set(shown)
    assert shown["ZOETROPE_MAX_QUEUED"][0] == "77"
    assert "me:***@db.example/jobs" in out
    assert "hush" not in out


def test_help_tells_of_the_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "The other settings are ZOETROPE_* variables, which `zoetrope settings` lists." in out
    options = "database artifact-store gateways tls-cert tls-key tls-client-ca public-url keys"
    assert all(f"--{option} " in out for option in options.split())


def test_a_private_service_asks_for_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("KEYS", "required"), ("database", "postgresql://x/y"), ("TLS_CERT", "c"), ("RANKS", "1")):
        monkeypatch.setenv(f"ZOETROPE_{name}", value)
    left = {name.upper(): value for name, value in private_env().items() if name.upper().startswith("ZOETROPE_")}
    assert left.get("ZOETROPE_RANKS") == "1"
    assert {"ZOETROPE_KEYS", "ZOETROPE_DATABASE", "ZOETROPE_TLS_CERT"}.isdisjoint(left)
    assert private_env()["PATH"] == os.environ["PATH"]
