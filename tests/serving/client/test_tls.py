"""TLS and mutual TLS, with certificates made here."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving.certificates import Authority
from tests.serving.gateway.harness import MODEL, Service, running_service
from zoetrope.serving.cli import main
from zoetrope.serving.client import AsyncVideoClient, ClientError, Tls, VideoClient


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


def models(service: Service, tls: Tls | None) -> str:
    with VideoClient(service.target, tls=tls) as client:
        return client.models()[0].name


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.code == "UNAVAILABLE"
    return str(caught.value)


def healthz(service: Service, authority: Authority, pair: tuple[Path, Path] | None = None) -> Any:
    context = ssl.create_default_context(cafile=authority.file)
    if pair is not None:
        context.load_cert_chain(*pair)
    with urllib.request.urlopen(f"https://{service.gateway.bound['http']}/healthz", context=context) as answer:
        return json.load(answer)


async def test_tls(ours: Authority, theirs: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate, key = ours.sign("service")
    with running_service(tmp_path, tls_cert=certificate, tls_key=key) as service:
        assert models(service, Tls(ours.file)) == MODEL
        async with AsyncVideoClient(service.target, tls=Tls(ours.file)) as client:
            assert (await client.models())[0].name == MODEL
        assert healthz(service, ours)["status"] == "ok"
        for tls in (None, Tls(), Tls(theirs.file)):
            refused(lambda tls=tls: models(service, tls))  # type: ignore[misc]
        assert main(["models", "--server", service.target, "--ca", str(ours.file)]) == 0
        assert MODEL in capsys.readouterr().out
        assert main(["models", "--server", f"https://{service.target}"]) == 1
        assert capsys.readouterr().err.startswith(f"error: no answer from {service.target}: ")


def test_mutual_tls(ours: Authority, theirs: Authority, tmp_path: Path) -> None:
    certificate, key = ours.sign("service")
    pair, wrong = ours.sign("client"), theirs.sign("stranger")
    settings = {"tls_cert": certificate, "tls_key": key, "tls_client_ca": ours.file}
    with running_service(tmp_path, **settings) as service:
        assert models(service, Tls(ours.file, *pair)) == MODEL
        refused(lambda: models(service, Tls(ours.file)))
        refused(lambda: models(service, Tls(ours.file, *wrong)))
        assert healthz(service, ours, pair)["status"] == "ok"
        with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
            healthz(service, ours)


def test_files_that_will_not_do(ours: Authority, tmp_path: Path) -> None:
    for tls, message in (
        (Tls(tmp_path / "none.pem"), f"tls: {tmp_path / 'none.pem'}: No such file or directory"),
        (Tls(ours.file, ours.file), "tls: a certificate and its key belong together, give both"),
    ):
        with pytest.raises(ClientError) as caught:
            VideoClient("127.0.0.1:1", tls=tls)
        assert str(caught.value) == message
