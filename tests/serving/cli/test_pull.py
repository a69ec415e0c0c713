"""`zoetrope pull` against a small hub on loopback: downloads, resumes, hashes, and what it says where it cannot."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from zoetrope.model.catalog.hub import cached_repository, snapshot_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.serving.cli import main

NAME, COMMIT = "acme/tiny-wan", "a" * 40


class Hub:
    """What the server has and has seen."""

    def __init__(self) -> None:
        self.files = {"config.json": b"{}", "vae/model.safetensors": b"v" * 5_000, "demo.mp4": b"m" * 100}
        self.lfs = {"vae/model.safetensors"}
        self.broken: set[str] = set()
        self.status = 200
        self.loaded: list[str] = []

    def sibling(self, name: str) -> dict[str, object]:
        data = self.files[name]
        told: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if name in self.lfs:
            sha = hashlib.sha256(data).hexdigest()
            told["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
        return told

    def entry(self, name: str) -> dict[str, object]:
        """The same as the hub's listing of a tree says it."""
        data = self.files[name]
        told: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
        if name in self.lfs:
            told["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return told


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path, hub = urlsplit(self.path).path, self.hub
        if hub.status != 200:
            self._send(hub.status, b"{}", {"X-Error-Code": "GatedRepo"} if hub.status == 403 else {}, body)
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            self._send(200, json.dumps([hub.entry(name) for name in hub.files]).encode(), {}, body)
        elif path.startswith(f"/api/models/{NAME}"):
            told = {"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": [hub.sibling(name) for name in hub.files]}
            self._send(200, json.dumps(told).encode(), {}, body)
        elif path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            self._file(path.removeprefix(f"/{NAME}/resolve/{COMMIT}/"), body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _file(self, name: str, body: bool) -> None:
        data = self.hub.files[name]
        sha = hashlib.sha256(data).hexdigest() if name in self.hub.lfs else hashlib.sha1(data).hexdigest()
        if body:
            self.hub.loaded.append(name)
        sent = b"x" * len(data) if name in self.hub.broken else data
        self._send(200, sent, {"ETag": f'"{sha}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    handler = type("Bound", (Handler,), {"hub": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_repository_is_downloaded_once_and_found_by_its_name(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", NAME]) == 0
    captured = capsys.readouterr()
    cached = cached_repository(NAME)
    assert cached is not None
    folder = snapshot_of(cached)
    assert captured.out == f"{folder}\n"
    assert "1 files, 0.00 GiB, checked by their hashes" in captured.err
    assert (folder / "vae" / "model.safetensors").read_bytes() == hub.files["vae/model.safetensors"]
    assert not (folder / "demo.mp4").exists()
    assert sorted(hub.loaded) == ["config.json", "vae/model.safetensors"]
    assert main(["pull", NAME, "-q"]) == 0
    assert len(hub.loaded) == 2
    with pytest.raises(ModelError, match=r"config\.json: model_type is None"):
        find_model(NAME)


def test_some_files_alone(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", NAME, "vae/*", "-q"]) == 0
    (path,) = map(Path, capsys.readouterr().out.split())
    assert path.read_bytes() == hub.files["vae/model.safetensors"]
    assert hub.loaded == ["vae/model.safetensors"]
    assert main(["pull", NAME, "text/*"]) == 2
    assert f"files: {NAME} has no file text/*; it has config.json, demo.mp4" in capsys.readouterr().err


def test_a_damaged_file_is_removed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.broken.add("vae/model.safetensors")
    assert main(["pull", NAME, "-q"]) == 1
    assert "vae/model.safetensors: does not have the hash that the hub says (the right size)" in capsys.readouterr().err
    hub.broken.clear()
    assert main(["pull", NAME, "-q"]) == 0


def test_a_hub_cannot_write_or_remove_files_elsewhere(hub: Hub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    hub.files["../../../../other"] = b"theirs"
    hub.lfs.add("../../../../other")
    assert main(["pull", NAME, "-q"]) != 0
    assert other.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["tiny"], 200, "error: repository: 'tiny' must be ORG/NAME"),
        (["acme/tiny--wan"], 200, "error: repository: cannot be one of the hub's: Cannot have -- or .. in repo_id"),
        ([NAME, "--revision", "../../x"], 200, "error: revision: '../../x' must be a commit, a branch or a tag"),
        (["acme/other"], 200, "has no acme/other, or shows it only with a token (HF_TOKEN)"),
        ([NAME], 403, "its licence must be accepted at http://127.0.0.1"),
        ([NAME], 500, f"answered 500 for {NAME}: run `zoetrope pull {NAME}` on a machine with a network"),
    ],
)
def test_a_refusal_is_one_line(
    hub: Hub, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.status = status
    assert main(["pull", *arguments, "-q"]) != 0
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_without_a_network_it_says_where_to_run_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["pull", NAME]) == 1
    assert f"HF_HUB_OFFLINE is set, so nothing is downloaded: run `zoetrope pull {NAME}`" in capsys.readouterr().err
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    assert main(["pull", NAME]) == 2
    assert "HF_ENDPOINT: 'nonsense' must be a URL" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["pull", NAME, "-q"]) == 1
    err = capsys.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in err and "copy its folder models--acme--tiny-wan to" in err
    with pytest.raises(ModelError, match=rf"not in .*hub: download it where there is a network \(zoetrope pull {NAME}"):
        find_model(NAME)
