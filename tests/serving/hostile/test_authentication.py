"""Ways past the keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from tests.serving.gateway.harness import until
from tests.serving.gateway.http.samples import picture
from tests.serving.hostile.grpc_fuzz import Method, methods
from tests.serving.hostile.kit import VIDEO, Target, finished_job, target
from tests.serving.hostile.test_raw_http import exchange, get, status_of
from zoetrope.serving.client import VideoClient

SECRET = "a prompt that nobody else may see"
OPEN_RPC = ("/grpc.health.v1.", "/grpc.reflection.")


@dataclass
class Locked:
    """A gateway that wants keys, one that is good, one that is not any more, and a job."""

    found: Target
    key: str
    revoked: str
    job: str


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    with target(tmp_path_factory.mktemp("locked"), keys="required") as found:
        keys = found.service.stores.keys
        _, good = keys.create("ada", "ada")
        gone, bad = keys.create("old", "ada")
        with VideoClient(found.service.target, api_key=good) as client:
            job = finished_job(found.service, client.create(prompt=SECRET)).id

        def status() -> int:
            headers = {"authorization": f"Bearer {bad}"}
            return httpx.get(f"{found.service.http}/v1/videos", headers=headers).status_code

        assert status() == 200
        assert keys.revoke(gone.id)
        until(lambda: status() == 401)  # a gateway looks a key up every few seconds
        yield Locked(found, good, bad, job)
        assert found.errors() == []


def spellings(key: str, revoked: str) -> dict[str, bytes | None]:
    """What stands in an Authorization header, none of which is this key."""
    return {
        "none": None,
        "empty": b"",
        "blank": b"   ",
        "the scheme alone": b"Bearer",
        "the scheme and a blank": b"Bearer ",
        "two schemes": f"Bearer Bearer {key}".encode(),
        "another case": f"Bearer {key.swapcase()}".encode(),
        "a prefix": f"Bearer {key[:-1]}".encode(),
        "more": f"Bearer {key}x".encode(),
        "in quotes": f'Bearer "{key}"'.encode(),
        "with a comma": f"Bearer {key}, Bearer {key}".encode(),
        "Basic": b"Basic YWRhOg==",
        "Basic with the key": f"Basic {key}".encode(),
        "Digest": f'Digest username="{key}"'.encode(),
        "a wildcard": b"Bearer %",
        "SQL": b"Bearer ' OR 1=1 --",
        "zk_": b"Bearer zk_",
        "null": b"Bearer null",
        "very long": b"Bearer " + b"x" * 20_000,
        "not ASCII": "Bearer zk_é🐈".encode(),
        "Latin-1": b"Bearer zk_\xff\xfe",
        "revoked": f"Bearer {revoked}".encode(),
        "a job": b"Bearer operations/vid_x",
    }


ALONE = (("grpc.use_local_subchannel_pool", 1),)
NAMES = list(spellings("", ""))


@pytest.mark.parametrize("name", NAMES)
def test_odd_headers(locked: Locked, name: str) -> None:
    value = spellings(locked.key, locked.revoked)[name]
    lines = [] if value is None else ["authorization: " + value.decode("latin-1")]

    def status(path: str) -> int | None:
        sent = get(path, "host: x", *lines)
        answer = exchange(locked.found, sent)
        assert SECRET.encode() not in answer
        return status_of(locked.found, answer, sent)

    # A key that was just revoked is believed for two seconds; what is no header gets 400.
    if name == "revoked":
        until(lambda: status("/v1/account") == 401, 10)
    for path in ("/v1/account", f"/v1/videos/{locked.job}", "/v1/videos", "/dashboard/state", "/api/v1/tasks"):
        assert status(path) == 401


@pytest.mark.parametrize("how", ["bearer KEY", "BEARER  KEY", "Token KEY", "Key KEY", "KEY"])
def test_spellings_that_are_taken(locked: Locked, how: str) -> None:
    headers = {"authorization": how.replace("KEY", locked.key)}
    assert httpx.get(f"{locked.found.service.http}/v1/videos/{locked.job}", headers=headers).status_code == 200


def test_headers_that_no_library_sends(locked: Locked) -> None:
    path = f"/v1/videos/{locked.job}"
    key = locked.key
    for lines in (
        [f"authorization: Bearer {key}\0"],
        [f"authorization : Bearer {key}"],
        [f"authorization: Bearer wrong\r\n Bearer {key}"],
        ["authorization: Bearer wrong", f"authorization: Bearer {key}"],
        [
            f"x-authorization: Bearer {key}",
            f"proxy-authorization: Bearer {key}",
            f"x-api-key: {key}",
            f"api-key: {key}",
        ],
        [f"cookie: authorization=Bearer%20{key}; token={key}; session={key}"],
        ["x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1", "forwarded: for=127.0.0.1", "x-forwarded-user: ada"],
        ["x-original-url: /healthz", "x-rewrite-url: /healthz", "x-forwarded-prefix: /healthz"],
    ):
        sent = get(path, "host: localhost", *lines)
        answer = exchange(locked.found, sent)
        assert status_of(locked.found, answer, sent) in (400, 401), (lines, answer)
        assert SECRET.encode() not in answer


def test_keys_elsewhere(locked: Locked) -> None:
    """In the query, in a form, as a cookie or a user's name: none counts."""
    http, key = locked.found.service.http, locked.key
    for name in ("key", "api_key", "apikey", "token", "access_token", "authorization", "Authorization", "auth"):
        assert httpx.get(f"{http}/v1/videos", params={name: key}).status_code == 401
        assert httpx.get(f"{http}/v1/videos", params={name: f"Bearer {key}"}).status_code == 401
        assert httpx.get(f"{http}/v1/videos", cookies={name: key}).status_code == 401
        assert httpx.post(f"{http}/v1/videos", data={name: key, "prompt": "x"}).status_code == 401
    assert httpx.get(f"{http}/v1/videos", auth=(key, "")).status_code == 401
    assert httpx.get(f"{http}/v1/videos", auth=("", key)).status_code == 401


def test_other_methods(locked: Locked) -> None:
    """No header turns one method into another, and none but those of a route is answered."""
    http, path = locked.found.service.http, f"/v1/videos/{locked.job}"
    for header in ("x-http-method-override", "x-http-method", "x-method-override", "_method"):
        for opened in ("/healthz", "/dashboard", "/openapi.json"):
            answer = httpx.post(http + opened, headers={header: "GET"}, data={"_method": "GET"})
            assert answer.status_code == 405
        assert httpx.get(http + path, headers={header: "DELETE"}).status_code == 401
    for method in ("HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND", "CONNECTX"):
        answer = httpx.request(method, http + path)
        assert answer.status_code in (401, 405), method
        assert "access-control-allow-origin" not in answer.headers
    assert locked.found.service.store.get(locked.job, "ada") is not None


def test_other_spellings_of_paths(locked: Locked) -> None:
    job, http = locked.job, locked.found.service.http
    for path in (
        *(
            f"/v1/videos/{job}/",
            f"//v1/videos/{job}",
            f"/v1//videos/{job}",
            f"/v1/./videos/{job}",
            f"/v1/x/../videos/{job}",
        ),
        *(
            f"/healthz/../v1/videos/{job}",
            f"/dashboard/../v1/videos/{job}",
            f"/healthz;/v1/videos/{job}",
            f"/V1/VIDEOS/{job}",
        ),
        *(
            f"/%76%31/videos/{job}",
            f"/v1/videos%2f{job}",
            f"/v1%2Fvideos%2F{job}",
            f"/v1/videos/{job}%00",
            f"/v1/videos/{job}?",
        ),
        *(
            f"/v1/videos/{job}/content/",
            f"/files/{job}",
            f"/files/{job}/",
            f"/files//{job}",
            f"/dashboard/jobs/{job}/video/",
        ),
        *(
            f"/v1/videos/{job}/content%3f",
            f"/healthz%2f..%2fv1/videos/{job}",
            f"/v1/videos/{job}#",
            f"/v1/videos/{job};a=b",
        ),
    ):
        sent = get(path, "host: x")
        answer = exchange(locked.found, sent)
        status = status_of(locked.found, answer, sent)
        assert status in (307, 400, 401, 403, 404), (path, status)
        assert SECRET.encode() not in answer and VIDEO[:40] not in answer
        if status == 307:
            follow = httpx.get(http + path, follow_redirects=True)
            assert follow.status_code in (401, 403, 404), path


def test_open_endpoints_reveal_nothing(locked: Locked) -> None:
    document = httpx.get(f"{locked.found.service.http}/openapi.json").json()
    opened = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = httpx.request(method.upper(), locked.found.service.http + re.sub(r"\{\w+\}", locked.job, path))
            if answer.status_code != 401:
                opened.append(path)
                assert operation["security"] == []
            locked.found.check(answer.status_code, answer.headers, answer.content, f"{method.upper()} {path}", path)
            text = answer.text
            assert SECRET not in text and locked.key not in text and VIDEO[:40] not in answer.content
            if path != "/openapi.json" and "{" not in path:
                assert locked.job not in text and "ada" not in re.findall(r"\w+", text), (
                    path,
                    "names a tenant or a job",
                )
    known = {
        "/",
        "/dashboard",
        "/health",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/files/{job_id}",
        "/files/{job_id}/{filename}",
        "/api/v1/uploads/{policy}",
        "/fal/rest/storage/upload/{grant}",
        "/fal/proxy",  # passes on to routes that authenticate
    }
    assert set(opened) <= known, "a new endpoint needs no key: is that meant?"


def rpc(locked: Locked, method: Method, **kwargs: Any) -> str:
    kind = f"{'stream' if method.sends_many else 'unary'}_{'stream' if method.gets_many else 'unary'}"
    sent: Any = iter([method.request()]) if method.sends_many else method.request()
    with grpc.insecure_channel(locked.found.service.target, ALONE) as channel:  # one that is refused often is ended
        try:
            call = getattr(channel, kind)(method.path, method.request.SerializeToString, bytes)
            answer = call(sent, timeout=2, **kwargs)
            list(answer) if method.gets_many else answer
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def test_every_rpc_wants_a_key(locked: Locked) -> None:
    """Also those that a descriptor names and we may have forgotten."""
    closed = [method for method in methods() if not method.path.startswith(OPEN_RPC)]
    assert len(closed) >= 20
    wrong: list[tuple[tuple[str, str | bytes], ...]] = [
        (),
        (("authorization", ""),),
        (("authorization", f"Bearer {locked.key[:-1]}"),),
        (("authorization", f"Bearer {locked.revoked}"),),
        (("authorization", f"Basic {locked.key}"),),
        (("authorization-bin", f"Bearer {locked.key}".encode()),),
        (("x-api-key", locked.key), ("x-authorization", f"Bearer {locked.key}")),
        (("authorization", f"Bearer {locked.key}"), ("authorization", "Bearer wrong")),
        (("authorization", "Bearer wrong"), ("x-forwarded-for", "127.0.0.1")),
        (("authorization", "Bearer " + "x" * 7_000),),
    ]
    for method in closed:
        for metadata in wrong:
            status = rpc(locked, method, metadata=metadata)
            assert status == "UNAUTHENTICATED", (method.path, metadata, status)


def test_paths_of_rpcs(locked: Locked) -> None:
    """Spellings of a closed method's path that might look open to the one who guards it."""
    (watched,) = [method for method in methods() if method.path.endswith("/ListModels")]
    assert rpc(locked, watched, metadata=(("authorization", f"Bearer {locked.key}"),)) == "OK"
    for path in (
        *("/zoetrope.video.v1.VideoService/listmodels", "/ZOETROPE.video.v1.VideoService/ListModels"),
        *("//zoetrope.video.v1.VideoService/ListModels", "/zoetrope.video.v1.VideoService/ListModels/"),
        *("/grpc.health.v1./../zoetrope.video.v1.VideoService/ListModels", "/grpc.health.v1.VideoService/ListModels"),
        *("/zoetrope.video.v1.VideoService/List%4dodels", "/grpc.reflection.zoetrope.video.v1.VideoService/ListModels"),
    ):
        odd = Method(path, watched.request, False, False)
        assert rpc(locked, odd) in ("UNIMPLEMENTED", "UNAUTHENTICATED"), path


def test_a_policy_ends_with_the_key_that_asked_for_it(locked: Locked) -> None:
    http, keys = locked.found.service.http, locked.found.service.stores.keys
    key, secret = keys.create("uploader", "uploader")
    headers = {"authorization": f"Bearer {secret}"}
    policy = httpx.get(f"{http}/api/v1/uploads", params={"action": "getPolicy"}, headers=headers).json()["data"]

    def upload(name: str) -> int:
        fields = {"key": f"{policy['upload_dir']}/{name}"}
        return httpx.post(policy["upload_host"], data=fields, files={"file": (name, picture())}).status_code

    assert upload("a.png") == 200
    assert keys.revoke(key.id)
    assert upload("b.png") == 403
    assert [medium.owner for medium in locked.found.service.stores.media.list("uploader", 9)] == ["uploader"]
