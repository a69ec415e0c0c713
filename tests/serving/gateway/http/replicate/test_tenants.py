"""The replicate SDK against gateways that want keys."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from replicate.client import Client

from tests.node.run import run_node
from tests.serving.gateway.harness import running_service
from tests.serving.gateway.http.replicate.kit import I2V, PROMPT, T2V, VIDEO, certificate, refused, router, succeed
from tests.serving.gateway.http.samples import clip, picture
from tests.serving.jobs.harness import claim_oldest


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
        (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
        data = clip(2.0)
        succeed(service, job, data)
        address = f"{service.http}/v1/predictions/{made.id}/output/video.mp4"
        codes = {owner: httpx.get(address, headers={"authorization": f"Bearer {tokens[owner]}"}) for owner in tokens}
        assert {owner: answer.status_code for owner, answer in codes.items()} == {"ada": 200, "bob": 404}
        assert httpx.get(address).status_code == 401
        signed = ada.predictions.get(made.id).output
        assert httpx.get(signed).content == data  # without a key
        assert httpx.get(signed[:-1]).status_code == 403
        again = ada.predictions.create(model=I2V, input={"first_clip": signed})
        assert again.input["first_clip"] == signed
        refused(lambda: bob.predictions.create(model=I2V, input={"first_clip": signed}), 404)
        assert refused(lambda: ada.files.delete("med_unknown"), 404)


def test_https_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS the output is a URL, to which the client for Python sends its key, and the one for Node none."""
    cert, key = certificate(tmp_path)
    with running_service(tmp_path, model="nano", keys="required", tls_cert=cert, tls_key=key) as service:
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        token = service.stores.keys.create("ada", "ada")[1]
        sdk: Any = Client(token, base_url=service.http.replace("http:", "https:"))
        address = service.http.replace("http:", "https:")
        with router(service):
            output = sdk.run(T2V, input=PROMPT)
            node = run_node("replicate_tls", BASE_URL=address, TOKEN=token, NODE_EXTRA_CA_CERTS=str(cert))
        assert output.url.startswith(f"{address}/files/vid_")
        assert output.read() == VIDEO
        assert node["url"].startswith(f"{address}/files/vid_")
        assert base64.b64decode(node["bytes"]) == VIDEO
