"""Addresses that lead inside, through every door that takes one. The rules themselves: tests/serving/outbound."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.serving.gateway.harness import until
from tests.serving.gateway.http.samples import picture
from tests.serving.hostile.kit import Target
from tests.serving.jobs.harness import claim_oldest, new_job
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.tasks import InvalidRequest
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.submit.media import ClientMedia
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.submission import Submission, Submitter
from zoetrope.serving.jobs.job import JobWebhook, QueueLimits
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.hooks import Moderation
from zoetrope.serving.storage.store import open_artifacts
from zoetrope.serving.sweeper.sender import Sender

# PORT is that of a server of this machine that nobody may reach.
INSIDE = [
    *("http://127.0.0.1:PORT/", "http://127.1.2.3:PORT/", "http://localhost:PORT/", "http://localhost.:PORT/"),
    *("http://LOCALHOST:PORT/", "http://a.localhost:PORT/", "http://[::1]:PORT/", "http://[::ffff:127.0.0.1]:PORT/"),
    *(
        "http://[::ffff:7f00:1]:PORT/",
        "http://[::]:PORT/",
        "http://0.0.0.0:PORT/",
        "http://0:PORT/",
        "http://127.1:PORT/",
    ),
    *("http://2130706433:PORT/", "http://0x7f.0.0.1:PORT/", "http://0x7f000001:PORT/", "http://017700000001:PORT/"),
    *(
        "http://127.0.0.1%2f@example.com:PORT/",
        "http://example.com@127.0.0.1:PORT/",
        "http://127.0.0.1:PORT\\@example.com/",
    ),
    *("http://a:b@127.0.0.1:PORT/", "http://①②⑦.⓪.⓪.①:PORT/", "http://127。0。0。1:PORT/", "http://[::1%25lo]:PORT/"),
    *(
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/",
        "http://169.254.170.2/v2/credentials",
    ),
    *(
        "http://168.63.129.16/",
        "http://100.100.100.200/",
        "http://[fe80::1]/",
        "http://169.254.1.1/",
        "http://0xa9fea9fe/",
    ),
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://100.64.0.1/", "http://[fc00::1]/"),
    *("http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://224.0.0.1/", "http://255.255.255.255/"),
    *("http://192.0.2.1:22/", "http://8.8.8.8:25/", "http://8.8.8.8:6379/", "https://127.0.0.1:PORT/"),
]
# What must be an http or https URL at all.
SCHEMES = [
    *(
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://127.0.0.1/a",
        "gopher://127.0.0.1:6379/_x",
        "dict://127.0.0.1/",
    ),
    *(
        "unix:///run/docker.sock",
        "s3://bucket/key",
        "ldap://127.0.0.1/",
        "javascript:alert(1)",
        "//127.0.0.1/",
        "/etc/passwd",
    ),
    *("http:/127.0.0.1/", "jar:http://127.0.0.1!/", "http+unix://%2frun%2fdocker.sock/", "\thttp://127.0.0.1/"),
]


class Inside:
    """A server of this machine; counts who comes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.location = ""
        inside = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                inside.asked.append(self.path)
                body = picture()
                redirects = bool(inside.location) and self.path == "/go"
                self.send_response(302 if redirects else 200)
                if redirects:
                    self.send_header("location", inside.location)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    server = Inside()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_media_through_every_door(found: Target, inside: Inside) -> None:
    """Refused as the client's mistake, in words, and nobody was asked."""
    service, asked = found.service, len(inside.asked)
    with httpx.Client(base_url=service.http, headers={"x-dashscope-async": "enable"}, timeout=30) as web:
        for address in [address.replace("PORT", str(inside.port)) for address in (*INSIDE, *SCHEMES)]:
            doors: list[tuple[str, Any]] = [
                ("/v1/models/wan-video/wan-2.7-i2v/predictions", {"input": {"first_frame": address}}),
                ("/v1/videos", {"prompt": "x", "input_reference": {"image_url": address}}),
                ("/dashboard/jobs", {"prompt": "x", "image": address}),
                (
                    "/api/v1/services/aigc/video-generation/video-synthesis",
                    {"model": "wan2.7-i2v", "input": {"img_url": address}},
                ),
                ("/fal-ai/wan-i2v", {"image_url": address}),
            ]
            for path, body in doors:
                answer = web.post(path, json=body)
                found.check(answer.status_code, answer.headers, answer.content, f"POST {path} {address}")
                assert answer.status_code in (400, 422), (path, address, answer.text)
            medium = media_pb2.Media(uri=address)
            request = video_pb2.CreateVideoRequest(image_to_video=video_pb2.ImageToVideo(image=medium))
            with pytest.raises(grpc.RpcError) as caught:
                service.videos.CreateVideo(request)
            assert caught.value.code().name == "INVALID_ARGUMENT", address
            assert caught.value.details().startswith("image_to_video.image: "), caught.value.details()
    assert len(inside.asked) == asked
    made = service.store.list("", page_size=100)
    assert all(job.spec["task"]["kind"] != "image_to_video" for job in made)


def test_webhooks_that_are_no_addresses(found: Target) -> None:
    with httpx.Client(base_url=found.service.http, timeout=30) as web:
        for address in (
            *SCHEMES,
            "http://a:b@example.com/",
            "http://",
            "http://x:0/",
            "http://x:99999/",
            "x" * 3_000,
            "",
        ):
            body = {"input": {"prompt": "x"}, "webhook": address}
            answer = web.post("/v1/models/wan-video/wan-2.7-t2v/predictions", json=body)
            assert answer.status_code == 422, (address, answer.text)
            assert [item["field"] for item in answer.json()["invalid_fields"]] == ["webhook"]
            request = video_pb2.CreateVideoRequest(
                text_to_video=video_pb2.TextToVideo(prompt="x"), webhook=video_pb2.Webhook(url=address)
            )
            with pytest.raises(grpc.RpcError) as caught:
                found.service.videos.CreateVideo(request)
            assert caught.value.code().name == "INVALID_ARGUMENT" and "webhook.url" in caught.value.details()


def test_webhooks_that_lead_inside_are_refused(found: Target, inside: Inside) -> None:
    service, asked = found.service, len(inside.asked)
    for address in [address.replace("PORT", str(inside.port)) for address in INSIDE]:
        body = {"input": {"prompt": "x"}, "webhook": address, "webhook_events_filter": ["start"]}
        answer = httpx.post(f"{service.http}/v1/models/wan-video/wan-2.7-t2v/predictions", json=body, timeout=30)
        assert answer.status_code == 422, (address, answer.text)
        [problem] = answer.json()["invalid_fields"]
        assert problem["field"] == "webhook", problem
    assert len(inside.asked) == asked


async def test_stored_webhooks_that_lead_inside(
    found: Target, inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    """Given up at once, without a connection: what was public once may lead inside when it is sent."""
    service, asked = found.service, len(inside.asked)
    addresses = [address.replace("PORT", str(inside.port)) for address in INSIDE]
    hooks = [JobWebhook(url, ("start",)) for url in addresses]
    spec = {"task": {"kind": "text_to_video", "prompt": "x"}}
    jobs = [new_job(f"inside{n}", webhook=hook, spec=spec) for n, hook in enumerate(hooks)]
    service.store.create_batch(jobs, QueueLimits(max_queued=1_000))
    claim_oldest(service.store, "hostile", 1_000, 60.0, 5, ("nano",))
    sender = Sender(service.stores, Guard(), service.http)
    while await sender.send_due():
        await sender.drain()
    given_up = [record.getMessage() for record in caplog.records if "is given up" in record.getMessage()]
    assert len(given_up) == len(jobs)
    reasons = (
        *("is not public", "unusual spelling", "this machine", "no host name", "not a URL", "not for web servers"),
        *("a user name", "backslashes"),
    )
    assert all(any(reason in line for reason in reasons) for line in given_up), given_up
    assert await sender.send_due() == 0, "none is tried again"
    assert len(inside.asked) == asked
    service.empty_queue()


async def test_a_webhook_whose_name_leads_inside_is_refused(tmp_path: Path) -> None:
    looked: list[str] = []

    async def resolve(name: str, port: int) -> Sequence[str]:
        looked.append(name)
        return {"inside.example.com": ["10.1.2.3"], "outside.example.com": ["93.184.216.34"]}.get(name, [])

    with submitter(tmp_path, Guard(resolve=resolve)) as door:

        def order(host: str) -> Submission:
            task = {"kind": "text_to_video", "prompt": "x"}
            return Submission({"task": task}, Options(webhook=JobWebhook(f"https://{host}/hook?{len(looked)}")))

        for _ in range(2):
            with pytest.raises(InvalidRequest) as caught:
                await door.submit(order("inside.example.com"), Principal("us"))
            [violation] = caught.value.violations
            assert violation.field == "webhook.url"
            assert violation.description.startswith("the address of inside.example.com is not public; the setting ")
        assert looked == ["inside.example.com"]  # remembered for a batch of many
        await door.submit_all([order("outside.example.com"), order("later.example.com")], Principal("them"))


# Names: a resolver of ours in the gateway's own intake.


@contextmanager
def submitter(directory: Path, guard: Guard) -> Iterator[Submitter]:
    """Submit in this process; nothing may be left of the tenant \"us\"."""
    settings, sandbox = Settings(data_dir=directory), Sandbox()
    stores = open_stores(settings.database_url)
    client_media = ClientMedia(
        settings, stores.media, stores.jobs, open_artifacts(settings.artifacts_url), sandbox, guard
    )
    try:
        yield Submitter(
            settings, ServedModels([find_model("nano")]), stores.jobs, client_media, Moderation(settings), guard
        )
        assert stores.jobs.list("us", page_size=1) == []
        assert stores.media.list("us", 1) == []
        assert list(settings.scratch.glob("*")) == []
    finally:
        sandbox.close()
        stores.close()


async def refused(door: Submitter, address: str) -> str:
    order = Submission({"task": {"kind": "image_to_video", "prompt": "x", "image": address}}, Options())
    with pytest.raises(InvalidRequest) as caught:
        await door.submit(order, Principal("us"))
    [violation] = caught.value.violations
    assert violation.field == "image"
    return violation.description


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::1"],
        ["93.184.216.34", "127.0.0.1"],
        ["::ffff:10.0.0.1"],
        ["x"],
    ],
)
async def test_names_that_lead_inside(tmp_path: Path, inside: Inside, answers: list[str]) -> None:
    async def resolve(name: str, port: int) -> Sequence[str]:
        return answers

    asked = len(inside.asked)
    with submitter(tmp_path, Guard(resolve=resolve)) as door:
        said = await refused(door, f"http://pictures.example.com:{inside.port}/a.png")
    assert said == "the address of pictures.example.com is not public"
    assert all(answer not in said for answer in answers if answer != "x")
    assert len(inside.asked) == asked


async def test_a_name_that_changes_its_mind(tmp_path: Path, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Public when it is judged, inside when it is looked up again: it is looked up once, and that is where it goes."""
    looked: list[str] = []

    async def resolve(name: str, port: int) -> Sequence[str]:
        looked.append(name)
        return ["93.184.216.34"] if len(looked) == 1 else ["127.0.0.1"]

    connected: list[str] = []

    async def connect(self: Any, host: str, port: int, **kwargs: Any) -> Any:
        connected.append(host)
        raise OSError("no way out of here")

    monkeypatch.setattr("httpcore.AnyIOBackend.connect_tcp", _as_connect_error(connect))
    asked = len(inside.asked)
    with submitter(tmp_path, Guard(resolve=resolve)) as door:
        said = await refused(door, f"http://rebind.example.com:{inside.port}/a.png")
    assert "rebind.example.com cannot be reached" in said
    assert connected == ["93.184.216.34"] and len(looked) == 1
    assert len(inside.asked) == asked


def _as_connect_error(connect: Any) -> Any:
    import httpcore

    async def wrapped(self: Any, host: str, port: int, **kwargs: Any) -> Any:
        try:
            return await connect(self, host, port, **kwargs)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    return wrapped


@pytest.mark.parametrize(
    "location",
    [
        *(
            "http://127.0.0.2:PORT/",
            "http://localhost:PORT/",
            "http://169.254.169.254/",
            "http://inside.example.com:PORT/",
        ),
        *(
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "//127.0.0.2:PORT/",
            "http://[::1]:PORT/",
            "http://user@front.example.com/",
        ),
        *("http://front.example.com:PORT/go", "http://2130706434:PORT/"),
    ],
)
async def test_redirects(tmp_path: Path, location: str) -> None:
    """From an address that may be asked, which here is 127.0.0.1 alone."""
    front = Inside()
    front.location = location.replace("PORT", str(front.port))

    async def resolve(name: str, port: int) -> Sequence[str]:
        return ["127.0.0.1" if name.startswith("front") else "127.0.0.2"]

    try:
        with submitter(tmp_path, Guard(allow=("127.0.0.1/32",), resolve=resolve)) as door:
            said = await refused(door, f"http://front.example.com:{front.port}/go")
    finally:
        await asyncio.to_thread(front.server.shutdown)
        front.server.server_close()
    assert set(front.asked) == {"/go"}, "nothing behind the redirect was asked for"
    assert "127.0.0.2" not in said or "127.0.0.2" in location, "what a name stands for is not told"


def test_what_the_server_would_have_given(inside: Inside) -> None:
    """The list proves something: who may ask does get an answer."""
    assert httpx.get(f"http://127.0.0.1:{inside.port}/").content == picture()
    with socket.create_connection(("127.0.0.1", inside.port), timeout=5):
        pass
    until(lambda: inside.asked)
