"""Every setting has a form, and a value of another form is told with the variable's name and the form."""

from __future__ import annotations

import pytest

from zoetrope.serving.cli import main
from zoetrope.serving.config.forms import form_of, problems, shown
from zoetrope.serving.config.settings import Settings

# A value that no setting of the form takes, and how the error goes on behind the variable's name.
WRONG = {
    "RANKS": ("none", "'none' must be an integer"),
    "CFG_GROUPS": ("3", "'3' must be at most 2"),
    "LEASE_SECONDS": ("0", "'0' must be above 0"),
    "QUANTIZE": ("fp4", "'fp4' must be 'none' or 'fp8'"),
    "COMPILE": ("perhaps", "'perhaps' must be true or false"),
    "CUDA_GRAPHS": ("always", "'always' must be 'auto' or 'never'"),
    "KEYS": ("never", "'never' must be 'auto' or 'required'"),
    "GRPC": ("50051", "'50051' must be HOST:PORT with a port from 0 to 65535"),
    "HTTP": ("host:", "'host:' must be HOST:PORT with a port from 0 to 65535"),
    "MANAGEMENT": ("9090", "'9090' must be HOST:PORT with a port from 0 to 65535"),
    "MIGRATE": ("always", "'always' must be 'auto' or 'never'"),
    "DRAIN_SECONDS": ("-1", "'-1' must be at least 0"),
    "ALLOW_NETWORKS": ("10.0.0.0/8,here", "'here' does not appear to be an IPv4 or IPv6 network; it must be a list of"),
    "DATABASE": ("mysql://me:secret@host/x", "'mysql://...' must be postgresql://USER:PASSWORD@HOST/DATABASE or "),
    "PUBLIC_URL": ("videos.example.com", "'videos.example.com' must be http://HOST or https://HOST"),
    "PROMPT_CHECK_URL": ("ftp://host", "'ftp://host' must be http://HOST or https://HOST"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_told_by_variable_value_and_form(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value, line = WRONG[name]
    monkeypatch.setenv(f"ZOETROPE_{name}", value)
    assert main(["settings"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: ZOETROPE_{name}: {line}")
    assert captured.err.count("\n") == 1 and "secret" not in captured.err


def test_the_defaults_have_the_forms() -> None:
    assert list(problems(Settings.model_construct())) == []
    for name, field in Settings.model_fields.items():
        form = form_of(name, field)
        assert form and form != "text", f"{name} needs a form in TEXTS"


def test_what_is_shown_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(allow_networks=("10.0.0.0/8", "::1"), compile=True, lease_seconds=2.5, snapshot_steps=None)
    for name in Settings.model_fields:
        text = shown(getattr(given, name))
        if text:
            monkeypatch.setenv(f"ZOETROPE_{name.upper()}", text)
    assert Settings() == given


@pytest.mark.parametrize(
    ("least", "most", "told"),
    [(0, None, None), (1, None, None), (2, 2, None), (2, None, "2 must be at most 1"), (3, 2, "3 must be at most 2")],
)
def test_no_more_engines_are_kept_than_there_may_be(least: int, most: int | None, told: str | None) -> None:
    found = dict(problems(Settings(min_engines=least, max_engines=most)))
    assert list(found) == ([] if told is None else ["min_engines"])
    assert told is None or found["min_engines"].startswith(told)
