"""`zoetrope keys` on the database of a running gateway, and commands that carry a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.gateway.harness import Service, running_service, until
from zoetrope.serving.cli import main
from zoetrope.serving.client import ClientError, VideoClient


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with running_service(tmp_path, keys="required") as running:
        monkeypatch.setenv("ZOETROPE_DATA_DIR", str(running.settings.data_dir))
        monkeypatch.setenv("ZOETROPE_SERVER", running.target)
        monkeypatch.delenv("ZOETROPE_API_KEY", raising=False)
        yield running


def test_create_use_list_revoke(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["jobs"]) == 2
    missing = "error: api-key: is missing, unknown or revoked; give --api-key or set ZOETROPE_API_KEY\n"
    assert capsys.readouterr().err == missing
    limits = ["--rate", "50", "--burst", "40", "--concurrent-jobs", "3", "--queued-seconds", "60"]
    limits += ["--models", "tiny, other", "--max-priority", "5", "--result-bytes", "70000000000"]
    assert main(["keys", "create", "render farm", "--tenant", "studio", *limits]) == 0
    captured = capsys.readouterr()
    secret = captured.out.strip()
    assert secret.startswith("zk_")
    assert secret not in captured.err
    key_id = captured.err.split()[0]
    with VideoClient(service.target, api_key=secret) as client:
        account = client.account()
        assert (account.tenant, account.key_name, account.requests_per_second) == ("studio", "render farm", 50.0)
        assert (account.burst, account.concurrent_jobs, account.queued_seconds) == (40, 3, 60.0)
        assert (account.models, account.max_priority) == (("tiny", "other"), 5)
        assert account.max_result_bytes == 70_000_000_000
        name = client.create(prompt="x").removeprefix("operations/")
    assert main(["jobs", "--api-key", secret]) == 0
    assert name in capsys.readouterr().out
    monkeypatch.setenv("ZOETROPE_API_KEY", secret)
    assert main(["cancel", name]) == 0
    capsys.readouterr()

    assert main(["keys", "create", "alice"]) == 0
    other = capsys.readouterr().out.strip()
    assert main(["watch", name, "--api-key", other]) == 2
    assert "is not a known operation" in capsys.readouterr().err
    assert main(["keys", "list"]) == 0
    table = capsys.readouterr().out
    header, first, second = table.splitlines()
    assert header.split()[:4] == ["id", "name", "tenant", "created"]
    assert first.startswith(key_id)
    assert first.rstrip().endswith("up to 5")
    assert "70000000000" in first
    assert "alice" in second
    assert secret not in table

    assert main(["keys", "revoke", key_id]) == 0
    assert capsys.readouterr().out == f"{key_id} revoked\n"
    assert main(["keys", "revoke", key_id]) == 2
    assert capsys.readouterr().err == f"error: id: '{key_id}' is not a key, or was revoked before\n"

    def refused() -> bool:
        with VideoClient(service.target, api_key=secret) as client:
            try:
                client.account()
            except ClientError as error:
                return error.code == "UNAUTHENTICATED"
        return False

    until(refused)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["create", " "], "name: is empty"),
        (["create", "a\nb"], "name: "),
        (["create", "x" * 101], "name: "),
        (["create", "a", "--tenant", "t\x00"], "tenant: "),
        (["create", "a", "--tenant", "#signed-addresses"], "tenant: '#signed-addresses' begins with '#'"),
        (["create", "#a"], "name: '#a' begins with '#'"),
        (["create", "a", "--rate", "0"], "rate: 0.0, must be above 0"),
        (["create", "a", "--rate", "nan"], "rate: nan, must be above 0"),
        (["create", "a", "--burst", "0"], "burst: 0, must be at least 1"),
        (["create", "a", "--concurrent-jobs", "-1"], "concurrent-jobs: -1, must be above 0"),
        (["create", "a", "--queued-seconds", "0"], "queued-seconds: 0.0, must be above 0"),
        (["create", "a", "--result-bytes", "0"], "result-bytes: 0, must be above 0"),
        (["create", "a", "--max-priority", "10"], "max-priority: 10, must be from 0 to 9"),
        (["create", "a", "--models", "tiny,,"], "models: 'tiny,,' holds an empty name"),
        (["create", "a", "--data-dir", "/dev/null/x"], "data-dir: /dev/null/x cannot be created"),
        (["list"], "data-dir: "),
        (["revoke", "key_none"], "data-dir: "),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_bad_input(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOETROPE_DATA_DIR", str(tmp_path))
    assert main(["keys", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_only_create_makes_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A data folder that is misspelt is told, and not made."""
    folder = tmp_path / "typo"
    there = ["--data-dir", str(folder)]
    for command in (["list"], ["revoke", "key_none"]):
        assert main(["keys", *command, *there]) == 2
        line = f"error: data-dir: {folder} has no database: no service or key was ever made there\n"
        assert capsys.readouterr().err == line
    assert not folder.exists()
    assert main(["keys", "create", "first", *there]) == 0
    assert capsys.readouterr().err.startswith(f"making a database in {folder}\n")
    assert main(["keys", "create", "second", *there]) == 0
    assert "making" not in capsys.readouterr().err
    assert main(["keys", "revoke", "key_none", *there]) == 2
    assert capsys.readouterr().err.startswith("error: id: 'key_none' is not a key")
    assert main(["keys", "list", "--quiet", *there]) == 0
    ids = capsys.readouterr().out.split()
    assert main(["keys", "list", "--json", *there]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [key["id"] for key in shown] == ids
    assert [key["name"] for key in shown] == ["first", "second"]
    assert shown[0]["revoked_at"] is None and shown[0]["created_at"].endswith("Z")
    assert not {"secret", "hash"} & set(shown[0])


def test_a_database_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["keys", "list", "--data-dir", str(tmp_path), "--database", "mysql://me:secret@host/x"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: database: 'mysql://...' must be postgresql://USER:PASSWORD@HOST/DATABASE")
    assert "secret" not in captured.err
