"""The replicate SDK against gateways that want keys."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from replicate.client import Client

from tests.serving.gateway.harness import running_service
from tests.serving.gateway.http.replicate_kit import I2V, PROMPT, T2V, VIDEO, refused, router, succeed
from tests.serving.gateway.http.samples import picture


def test_tenants(tmp_path: Path) -> None:
    with running_service(tmp_path, model="nano", keys="required") as service:
        tokens = {owner: service.stores.keys.create(owner, owner)[1] for owner in ("ada", "bob")}
        clients: list[Any] = [Client(token, base_url=service.http) for token in (*tokens.values(), "zk_wrong")]
        ada, bob, nobody = clients
        assert (ada.accounts.current().username, bob.accounts.current().username) == ("ada", "bob")
        file = ada.files.create(io.BytesIO(picture()), filename="a.png")
        made = ada.predictions.create(model=I2V, input={"image": file.urls["get"]})
        for call in (
            lambda: bob.predictions.get(made.id),
            lambda: bob.predictions.cancel(made.id),
            lambda: bob.files.get(file.id),
            lambda: bob.files.delete(file.id),
            lambda: bob.predictions.create(model=I2V, input={"image": file.urls["get"]}),
            lambda: bob.predictions.create(model=I2V, input={"image": made.urls["get"] + "/output/video.mp4"}),
        ):
            refused(call, 404)
        assert not bob.predictions.list().results
        assert not bob.files.list()
        assert ada.webhooks.default.secret().key != bob.webhooks.default.secret().key
        refused(nobody.predictions.list, 401)
        refused(lambda: nobody.predictions.create(model=T2V, input=PROMPT), 401)
        (job,) = service.store.claim("test", 10, 60.0, 5, ("nano",))
        succeed(service, job)
        address = f"{service.http}/v1/predictions/{made.id}/output/video.mp4"
        codes = {owner: httpx.get(address, headers={"authorization": f"Bearer {tokens[owner]}"}) for owner in tokens}
        assert {owner: answer.status_code for owner, answer in codes.items()} == {"ada": 200, "bob": 404}
        assert httpx.get(address).status_code == 401
        assert refused(lambda: ada.files.delete("med_unknown"), 404)


def test_https_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS the output is an address, to which the client sends its key."""
    cert, key = certificate(tmp_path)
    with running_service(tmp_path, model="nano", keys="required", tls_cert=cert, tls_key=key) as service:
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        token = service.stores.keys.create("ada", "ada")[1]
        sdk: Any = Client(token, base_url=service.http.replace("http:", "https:"))
        with router(service):
            output = sdk.run(T2V, input=PROMPT)
        assert output.url.startswith("https://127.0.0.1:")
        assert output.read() == VIDEO


def certificate(directory: Path) -> tuple[Path, Path]:
    """Self-signed, for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "zoetrope test")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1))
    builder = builder.not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    paths[1].write_bytes(private)
    return paths
