"""`zoetrope gateway`, `zoetrope settings`, and the options of `zoetrope serve` that can be judged at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving.gateway.harness import MODEL, ROOT, write_checkpoint
from zoetrope.serving.cli import main
from zoetrope.serving.cli.service import private_env
from zoetrope.serving.cli.settings import ServeOptions, settings_of
from zoetrope.serving.client import VideoClient
from zoetrope.serving.config.settings import Settings


def test_a_gateway_alone(tmp_path: Path) -> None:
    """It does not end with its standard input, which services that a system starts do not have."""
    options = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
    model = str(write_checkpoint(tmp_path / MODEL))
    process = subprocess.Popen(
        [sys.executable, "-m", "zoetrope.serving.cli", "gateway", "--model", model, *options],
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
        (["--keys", "never"], "keys: 'never' must be "),
        (["--grpc", "50051"], "grpc: '50051' must be HOST:PORT"),
        (["--quantize", "int4"], "quantize: 'int4' must be 'none' or 'fp8'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["serve", "gateway"])
def test_bad_options(command: str, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1


def test_8_bits_are_not_compiled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_COMPILE", "true")
    assert main(["serve", "--quantize", "fp8"]) == 2
    assert capsys.readouterr().err == "error: quantize: 'fp8' cannot be used together with ZOETROPE_COMPILE=true\n"
    monkeypatch.setenv("ZOETROPE_QUANTIZE", "fp8")
    assert main(["settings"]) == 2
    assert capsys.readouterr().err.startswith("error: ZOETROPE_QUANTIZE: 'fp8' cannot be used together with")


def test_compiled_steps_are_not_captured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_COMPILE", "true")
    monkeypatch.setenv("ZOETROPE_CUDA_GRAPHS", "auto")
    assert main(["settings"]) == 2
    told = "error: ZOETROPE_CUDA_GRAPHS: 'auto' cannot be used together with ZOETROPE_COMPILE=true\n"
    assert capsys.readouterr().err == told


def test_a_number_of_gateways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--gateways", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: gateways: 0 must be at least 1")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--grpc", "0.0.0.0:0"], "grpc, http: other machines can connect to these addresses"),
        (["--tls-cert", "none.pem", "--tls-key", "none.key"], "tls_cert, tls_key, tls_client_ca: cannot be used: "),
        (["--database", "mysql://me:secret@host/x"], "database: 'mysql://...' must be postgresql://"),
        (["--model", "nobody"], "model 'nobody' is neither a preset"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_gateway_that_does_not_start(arguments: list[str], line: str, tmp_path: Path) -> None:
    """A process of its own, for a gateway handles signals and logs."""
    base = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--model", "nano"]
    done = subprocess.run(
        [sys.executable, "-m", "zoetrope.serving.cli", "gateway", *base, *arguments],
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
    assert all(field.description for field in Settings.model_fields.values())
    assert "me:***@db.example/jobs" in out
    assert "hush" not in out


def test_settings_for_programs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_ALLOW_NETWORKS", "127.0.0.0/8, ::1")
    monkeypatch.setenv("ZOETROPE_DATABASE", "postgresql://me:hush@db.example/jobs")
    assert main(["settings", "--json"]) == 0
    out = capsys.readouterr().out
    shown = {item["variable"]: item for item in json.loads(out)}
    networks = shown["ZOETROPE_ALLOW_NETWORKS"]
    assert (networks["value"], networks["form"]) == ("127.0.0.0/8,::1", "ADDRESS/BITS,...")
    assert "hush" not in out


@pytest.mark.parametrize("width", [80, 120])
def test_settings_in_a_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    words = set(" ".join(lines).split())
    assert {f"ZOETROPE_{name.upper()}" for name in Settings.model_fields} <= words


def test_misspelt_variables_are_told_at_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOETROPE_MODLE", "nano")
    line = "warning: ZOETROPE_MODLE is not a setting; did you mean ZOETROPE_MODEL?"
    for command in (["settings"], ["serve", "--model", "nobody"], ["serve", "nobody"]):
        assert main(command) == (0 if command == ["settings"] else 2)
        first, *rest = capsys.readouterr().err.splitlines()
        assert first == line
        assert [text.startswith("error: model 'nobody' is neither a preset") for text in rest] == [True] * len(rest)
        assert len(rest) == (command != ["settings"])


@pytest.mark.parametrize(
    ("options", "grpc", "http"),
    [
        ({}, "127.0.0.1:50051", "127.0.0.1:8080"),
        ({"host": "0.0.0.0"}, "0.0.0.0:50051", "0.0.0.0:8080"),
        ({"host": "::", "port": 80}, "[::]:50051", "[::]:80"),
        ({"port": 0}, "127.0.0.1:50051", "127.0.0.1:0"),
        ({"host": "here", "grpc": "there:1"}, "there:1", "here:8080"),
        ({"host": "here", "http": "there:1"}, "here:50051", "there:1"),
    ],
    ids=str,
)
def test_host_and_port(options: dict[str, Any], grpc: str, http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(ServeOptions(**options))
    assert (settings.grpc, settings.http) == (grpc, http)
    monkeypatch.setenv("ZOETROPE_HTTP", "example.com:9")
    host, port = options.get("host", "example.com"), options.get("port", 9)
    expected = http if "http" in options else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert settings_of(ServeOptions(**options)).http == expected


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "80", "--http", "here:80"], "port: cannot be used together with --http"),
        (["--host", "here", "--http", "a:1", "--grpc", "a:2"], "host: cannot be used together with --grpc and --http"),
        (["--host", "here:80"], "host: 'here:80' must be a name or an address, without a port"),
        (["--port", "65536"], "port: "),
        (["nano", "--model", "other"], "model: is named twice: 'nano' and --model 'other'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_addresses_and_models_that_contradict(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"TLS_CERT": "c.pem"}, "ZOETROPE_TLS_KEY: is missing"),
        ({"TLS_KEY": "k.pem"}, "ZOETROPE_TLS_CERT: is missing"),
        ({"TLS_CLIENT_CA": "c.pem"}, "ZOETROPE_TLS_CLIENT_CA: needs --tls-cert and --tls-key"),
    ],
    ids=str,
)
def test_what_variables_lack(
    variables: dict[str, str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ZOETROPE_{name}", value)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


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
