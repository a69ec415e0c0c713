"""`--help`: every command and option says what it does, and where its default comes from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.serving.gateway.harness import ROOT
from zoetrope.serving.cli.app import app, main
from zoetrope.serving.cli.settings import ServeOptions, settings_of
from zoetrope.serving.config.forms import shown as written
from zoetrope.serving.config.settings import Settings


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:  # it does something by itself, too
                yield " ".join((*path, name)), command
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))


CONNECTING = {"generate", "jobs", "watch", "cancel", "download", "extend", "events", "models", "models list", "top"}
CONNECTING |= {"media upload", "media list", "media delete"}
OTHERS = {"serve", "gateway", "sweeper", "migrate", "settings", "upcycle", "prepare", "calibrate", "doctor", "plan"}
OTHERS |= {"keys create", "keys list", "keys revoke", "adapters add", "adapters list", "adapters remove"}
OTHERS |= {"k8s render", "k8s check", "k8s knobs"}
OTHERS |= {"bench serve", "bench model", "bench quality", "bench peers", "bench report", "bench smoke"}
OTHERS |= {"models add", "models export", "models remove", "models verify", "pull"}


def test_the_commands_and_which_of_them_connect() -> None:
    assert set(COMMANDS) == CONNECTING | OTHERS
    connection = {"server", "api_key", "ca", "client_cert", "client_key"}
    for name, command in COMMANDS.items():
        names = {parameter.name for parameter in command.params}
        assert names & connection == (connection if name in CONNECTING else set()), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does_and_takes(name: str) -> None:
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        assert parameter.help, parameter.name
        assert parameter.help.endswith("."), parameter.help
        assert parameter.help[0].isupper() or parameter.help[0].isdigit(), parameter.help
        if getattr(parameter, "is_flag", False):
            continue
        assert parameter.metavar, parameter.name
        if parameter.param_type_name == "option" and not parameter.required:
            told = isinstance(parameter.show_default, str) or parameter.default not in (None, "")
            assert told, f"the help of {parameter.name} tells no default"


def test_alone_it_prints_its_help_as_do_its_groups(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["keys"], ["media"]):
        assert main(words) == 0
        alone = capsys.readouterr()
        for name in ("-h", "--help"):
            assert main([*words, name]) == 0
            assert capsys.readouterr() == alone
        assert alone.err == "" and alone.out.startswith(f"Usage: {' '.join(['zoetrope', *words])} ")


def test_the_list_of_commands_by_section_each_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["-h"]) == 0
    shown = capsys.readouterr().out
    assert "..." not in shown.partition("\n")[2] and max(map(len, shown.splitlines())) <= 80
    sections = [line for line in shown.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert sections == ["Options:", "Service:", "Jobs:", "Models:", "Files and keys:"]
    names = re.findall(r"^  ([a-z0-9]+) ", shown, re.MULTILINE)
    assert sorted(names) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_h_is_help_everywhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "-h"]) == 0
    said = capsys.readouterr().out
    if [parameter.name for parameter in COMMANDS[name].params] == ["rest"]:  # it reads its command line by itself
        assert said.startswith("usage: ") and "options:" in said
    else:
        assert said.startswith(f"Usage: zoetrope {name} ")


@pytest.mark.parametrize("words", [["help"], ["help", "jobs"], ["help", "keys", "list"], ["keys", "help", "list"]])
def test_help_as_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    named = " ".join(["zoetrope", *(word for word in words if word != "help")])
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"Usage: {named} ")


LISTINGS = {"jobs", "models", "models list", "media list", "keys list", "adapters list"}


def test_every_listing_has_json() -> None:
    having = {name for name, command in COMMANDS.items() if any(p.name == "json" for p in command.params)}
    assert having == LISTINGS | {"events", "settings", "doctor", "plan", "top", "k8s check"}
    quiet = {name for name, command in COMMANDS.items() if any("-q" in p.opts for p in command.params)}
    assert quiet == LISTINGS | {
        "bench serve",
        "generate",
        "watch",
        "extend",
        "media upload",
        "models verify",
        "upcycle",
        "prepare",
        "calibrate",
        "pull",
    }


def test_shell_completion() -> None:
    """As bash asks for it, through the door that the command has."""
    asked = {"_ZOETROPE_COMPLETE": "complete_bash", "COMP_WORDS": "zoetrope keys re", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from zoetrope.serving.cli import main; main()"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["revoke"], "")


def test_the_defaults_that_help_shows_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ZOETROPE_{name.upper()}", raising=False)
    settings = settings_of(ServeOptions())
    shown = {parameter.name: parameter.show_default for parameter in COMMANDS["serve"].params}
    for name in ("model", "grpc", "http", "data_dir", "keys", "ranks", "engines", "decoders", "gateways"):
        assert shown[name] == written(getattr(settings, name)), name
    assert settings.http == f"{shown['host']}:{shown['port']}" and settings.grpc.startswith(f"{shown['host']}:")
