"""`zoetrope adapters` on the database and the storage of a running gateway."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.adapters import changes, write_peft
from tests.serving.gateway.harness import Service, running_service
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.families import BUNDLED
from zoetrope.model.network.protocol import meta_network
from zoetrope.serving.cli import main
from zoetrope.serving.client import ClientError, VideoClient


@pytest.fixture
def file(tmp_path: Path) -> Path:
    network = meta_network(BUNDLED["nano"].config)
    return write_peft(tmp_path / "ink.safetensors", changes(network, 1, 8, only="attn"))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with running_service(tmp_path, keys="required", model="nano") as running:
        monkeypatch.setenv("ZOETROPE_DATA_DIR", str(running.settings.data_dir))
        yield running


def key_of(tenant: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["keys", "create", tenant]) == 0
    return capsys.readouterr().out.strip()


def test_add_name_list_remove(service: Service, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    studio, guest, _ = (key_of(tenant, capsys) for tenant in ("studio", "guest", "lab"))
    assert main(["adapters", "add", "ink", str(file), "--tenant", "studio", "--tenant", "lab"]) == 0
    assert capsys.readouterr().out.startswith("ink is registered with nano for 'studio', 'lab': rank 8, ")
    assert main(["adapters", "add", "common", str(file)]) == 0
    assert "for all tenants" in capsys.readouterr().out
    assert main(["adapters", "add", "ink", str(file)]) == 2
    assert capsys.readouterr().err.startswith("error: name: 'ink' is registered for nano; remove that one first")
    folder = service.settings.directory / "artifacts" / "adapters"
    assert len(list(folder.iterdir())) == 2, "what was refused left no file"
    with VideoClient(service.target, api_key=studio) as client:
        assert client.models()[0].adapters == ("common", "ink")
        made = client.get(client.create(prompt="x", loras=[{"name": "ink", "strength": 0.5}, "common"]))
        registered = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        assert [(one.name, one.strength, one.strength_low) for one in made.adapters] == [
            ("ink", 0.5, None),
            ("common", 1.0, None),
        ]
        assert [one.sha256 for one in made.adapters] == list(registered.values())[:1] * 2, "one file, under two names"
        assert made.weights == weights_of(find_model("nano"))
        assert client.get(client.create(prompt="x")).adapters == ()
    with VideoClient(service.target, api_key=guest) as client:
        assert client.models()[0].adapters == ("common",)
        with pytest.raises(ClientError, match="'ink' is not a known adapter; registered: common") as caught:
            client.create(prompt="x", loras=["ink"])
        assert caught.value.code == "NOT_FOUND"
    assert main(["adapters", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(item["name"], item["tenants"], item["rank"]) for item in listed] == [
        ("common", None, 8),
        ("ink", ["studio", "lab"], 8),
    ]
    assert main(["adapters", "remove", "ink"]) == 0
    assert capsys.readouterr().out == "ink is removed\n"
    assert len(list(folder.iterdir())) == 1
    assert main(["adapters", "remove", "ink"]) == 2
    assert capsys.readouterr().err == "error: name: 'ink' is not an adapter\n"
    with VideoClient(service.target, api_key=studio) as client, pytest.raises(ClientError, match="registered: common"):
        client.create(prompt="x", loras=["ink"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["add", " ", "FILE"], "name: ' ' must be 1 to 128 printable characters, without : @ , and without"),
        (["add", "a:b", "FILE"], "name: "),
        (["add", "a@b", "FILE"], "name: "),
        (["add", "x" * 129, "FILE"], "name: "),
        (["add", "ink ", "FILE"], "name: 'ink ' must be 1 to 128 printable"),
        (["add", "", "FILE"], "name: '' "),
        (["add", "ink", ""], "file: is empty, must be a path"),
        (["add", "ink", "a\nb"], "file: 'a\\nb' holds a control character"),
        (["add", "ink", "FILE", "--tenant", ""], "tenant: '' has no API key"),
        (["add", "ink", "none.safetensors"], "file: none.safetensors: No such file or directory"),
        (["add", "ink", "FILE@high"], "file: "),
        (["add", "ink", "FILE", "--model", "nothing"], "model: "),
        (["list"], "data-dir: "),
        (["remove", "ink"], "data-dir: "),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_bad_input_makes_nothing(
    arguments: list[str],
    line: str,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("ZOETROPE_DATA_DIR", str(data))
    assert main(["adapters", *(word.replace("FILE", str(file)) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {line}") and captured.err.count("\n") == 1
    assert not data.exists() or list(data.iterdir()) == []


def test_settings_that_leave_no_room(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOETROPE_DATA_DIR", str(tmp_path / "data"))
    for variable, value, line in (
        ("ZOETROPE_ADAPTER_SLOTS", "0", "ZOETROPE_ADAPTER_SLOTS: is 0, so that no request may have an adapter"),
        ("ZOETROPE_ADAPTER_RANK", "48", "ZOETROPE_ADAPTER_RANK: "),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert main(["adapters", "add", "ink", str(file)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {line}")


def test_tenants_that_nobody_is(service: Service, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapters", "add", "ink", str(file), "--tenant", "studio"]) == 2
    assert capsys.readouterr().err == (
        "error: tenant: 'studio' has no API key (none has); make it with `zoetrope keys create`\n"
    )
    key_of("studio", capsys)
    assert main(["adapters", "add", "ink", str(file), "--tenant", "studio", "--tenant", "stduio"]) == 2
    assert "'stduio' has no API key (those that have one: 'studio')" in capsys.readouterr().err
    assert main(["adapters", "list", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_an_adapter_is_removed_where_its_model_is_not(
    service: Service, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name alone, and by its model's where several have one of that name."""
    from zoetrope.serving.jobs.open import open_stores

    assert main(["adapters", "add", "ink", str(file)]) == 0
    stores = open_stores(service.settings.database_url)
    for name in ("ink", "oil"):
        stores.adapters.add(name, "gone", None, adapter_id=f"lora_{name}", sha256="00", size_bytes=1, rank=4)
    stores.close()
    monkeypatch.setenv("ZOETROPE_MODEL", "/models/that/are/not/here")
    capsys.readouterr()
    assert main(["adapters", "remove", "ink"]) == 2
    assert capsys.readouterr().err == "error: model: must be given, 'ink' is an adapter of gone and of nano\n"
    assert main(["adapters", "remove", "ink", "--model", "wan"]) == 2
    assert capsys.readouterr().err == "error: name: 'ink' is not an adapter of 'wan', but of gone and of nano\n"
    assert main(["adapters", "remove", "ink", "--model", "gone"]) == 0
    assert main(["adapters", "remove", "oil"]) == 0
    capsys.readouterr()
    assert main(["adapters", "list", "--json"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["nano"]
