"""Requests to real servers on this machine, which the guard is told to allow."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zoetrope.serving.outbound import FetchFailed, FetchRefused, Guard

CONTENT = bytes(range(256)) * 1_000
Page = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """Pages by path, and who asked for what."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                site.asked.append((self.command, self.path, headers, body))
                site.pages[self.path](self)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self.server = Server((host, 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def page(body: bytes = b"", status: int = 200, length: int | None = None, **headers: str) -> Page:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def guard(*names: str, tls: ssl.SSLContext | None = None) -> Guard:
    """This machine is open, and all names lead to it."""

    async def resolve(name: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    return Guard(allow=("127.0.0.0/8",), resolve=resolve, tls=tls)


async def test_a_file_arrives_whole(site: Site, tmp_path: Path) -> None:
    site.pages["/cat?x=1"] = page(CONTENT, content_type="Image/PNG; charset=x")
    url = f"http://cats.example.com:{site.port}/cat?x=1"
    fetched = await guard().fetch(url, limit_bytes=len(CONTENT), timeout_seconds=10, to=tmp_path / "cat")
    assert (fetched.size, fetched.content_type) == (len(CONTENT), "image/png")
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "cat").read_bytes() == CONTENT
    [(method, _, headers, _)] = site.asked
    assert method == "GET" and headers["host"] == f"cats.example.com:{site.port}"
    assert headers["user-agent"] == "zoetrope" and "authorization" not in headers and "cookie" not in headers


async def test_a_proxy_of_the_environment_is_not_used(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.pages["/"] = page(b"1")
    await guard().fetch(f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=10, to=tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_is_given_up(site: Site, tmp_path: Path, chunked: bool) -> None:
    sent: list[int] = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent.append(0x10000)
        except OSError:
            handler.close_connection = True

    site.pages["/"] = endless if chunked else page(b"", length=1_001)
    with pytest.raises(FetchFailed, match="is larger than 1000 bytes"):
        await guard().fetch(f"http://a.example:{site.port}/", limit_bytes=1_000, timeout_seconds=10, to=tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["headers", "body", "connect"])
async def test_a_slow_server_meets_the_deadline(site: Site, tmp_path: Path, where: str) -> None:
    """A byte now and then keeps no connection open for longer than the deadline for everything."""
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"
        try:
            if where == "body":
                handler.wfile.write(head)
            while not gone.wait(0.05):
                handler.wfile.write(b"x" if where == "body" else b"H")
        except OSError:
            pass

    site.pages["/"] = drip

    async def never(name: str, port: int) -> Sequence[str]:
        return await asyncio.Future()

    slow = Guard(allow=("127.0.0.0/8",), resolve=never) if where == "connect" else guard()
    url = f"http://a.example:{site.port}/"
    try:
        with pytest.raises(FetchFailed, match=r"took longer than 0\.4 s|speaks no HTTP"):
            async with asyncio.timeout(10):
                await slow.fetch(url, limit_bytes=1_000, timeout_seconds=0.4, to=tmp_path / "x")
    finally:
        gone.set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer, complaint",
    [
        (page(b"no", 404), "status 404"),
        (page(b"", 500), "status 500"),
        (page(b"x", content_encoding="gzip"), "content encoding"),
        (page(b"short", length=100), "the connection failed|speaks no HTTP"),
        (page(b"", 302), "redirected to nowhere"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n") and None, "speaks no HTTP"),
        (page(b"", filler="x" * 200_000), "speaks no HTTP"),
    ],
)
async def test_other_answers_fail(site: Site, tmp_path: Path, answer: Page, complaint: str) -> None:
    site.pages["/"] = answer
    with pytest.raises(FetchFailed, match=complaint) as caught:
        await guard().fetch(f"http://a.example:{site.port}/", limit_bytes=1_000, timeout_seconds=5, to=tmp_path / "x")
    assert "127.0.0.1" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"a\.example cannot be reached: the connection failed"):
        await guard().fetch("http://a.example:8/", limit_bytes=1, timeout_seconds=5, to=tmp_path / "x")


async def test_a_file_in_the_way_is_kept(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    site.pages["/"] = page(b"1")
    with pytest.raises(FileExistsError):
        await guard().fetch(f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"mine"


# Redirects


async def test_redirects_are_followed_to_the_file(site: Site, tmp_path: Path) -> None:
    site.pages["/a/1"] = page(b"", 302, location="2")
    site.pages["/a/2"] = page(b"", 307, location="/b")
    site.pages["/b"] = page(b"", 301, location=f"http://other.example:{site.port}/c#part")
    site.pages["/c"] = page(b"there")
    await guard().fetch(f"http://a.example:{site.port}/a/1", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"there"
    assert [headers["host"].partition(":")[0] for _, _, headers, _ in site.asked] == ["a.example"] * 3 + [
        "other.example"
    ]


async def test_a_circle_of_redirects_ends(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = page(b"", 302, location="/")
    with pytest.raises(FetchFailed, match="redirected more than 5 times"):
        await guard().fetch(f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")
    assert len(site.asked) == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://10.0.0.1/",
        "http://0x7f000001/",
        "http://user:word@a.example/",
        "file:///etc/passwd",
        "ftp://a.example/",
        "http://a.example:25/",
        "http://[",
    ],
)
async def test_every_hop_is_judged(site: Site, tmp_path: Path, location: str) -> None:
    site.pages["/"] = page(b"", 302, location=location)
    with pytest.raises(FetchRefused):
        await guard().fetch(f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")
    assert len(site.asked) == 1 and list(tmp_path.iterdir()) == []


# Rebinding


class Rebinding:
    """A name that is public when it is looked up first, and this machine from then on; or the other way round."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_name_is_looked_up_once_and_the_judged_address_connected_to(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = page(b"1")
    resolve = Rebinding(["127.0.0.1"], ["169.254.169.254"])
    open_guard = Guard(allow=("127.0.0.0/8",), resolve=resolve)
    await open_guard.fetch(f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")
    assert resolve.asked == 1 and len(site.asked) == 1


async def test_a_name_that_turns_inside_after_a_redirect_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = page(b"", 302, location="/inside")
    site.pages["/inside"] = page(b"secret")
    resolve = Rebinding(["127.0.0.1"], ["127.0.0.2"])
    half_open = Guard(allow=("127.0.0.1/32",), resolve=resolve)
    with pytest.raises(FetchRefused, match=r"the address of a\.example is not public"):
        await half_open.fetch(f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")
    assert [path for _, path, _, _ in site.asked] == ["/"]


async def test_one_address_of_several_that_is_inside_spoils_all(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = page(b"secret")
    resolve = Rebinding(["93.184.215.14", "127.0.0.1"])
    with pytest.raises(FetchRefused):
        await Guard(resolve=resolve).fetch(
            f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x"
        )
    assert site.asked == []


async def test_the_next_address_is_tried_where_one_is_dead(site: Site, tmp_path: Path) -> None:
    site.pages["/"] = page(b"1")
    two = Guard(allow=("127.0.0.0/8",), resolve=Rebinding(["127.0.0.3", "127.0.0.1"]))
    await two.fetch(f"http://a.example:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")


async def test_the_real_resolver_and_a_closed_guard_refuse_this_machine(site: Site, tmp_path: Path) -> None:
    for host in ("localhost", "127.0.0.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(FetchRefused):
            await Guard().fetch(f"http://{host}:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")
    open_guard = Guard(allow=("127.0.0.0/8", "::1/128"))
    site.pages["/"] = page(b"1")
    await open_guard.fetch(f"http://localhost:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "x")


# TLS


def certificate(directory: Path, name: str, san: x509.GeneralName | None = None) -> Path:
    """Key and self-signed certificate in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([san or x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / f"{name}.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


async def test_tls_is_checked_against_the_name_and_asks_for_it(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "cats.example.com")
    asked_for: list[str | None] = []
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    serving.sni_callback = lambda socket, name, context: asked_for.append(name)
    site = Site(serving)
    site.pages["/"] = page(b"1")
    trusting = ssl.create_default_context(cafile=str(pem))
    try:
        url = f"https://cats.example.com.:{site.port}/"
        await guard(tls=trusting).fetch(url, limit_bytes=9, timeout_seconds=5, to=tmp_path / "1")
        assert asked_for == ["cats.example.com"] and site.asked[0][2]["host"] == f"cats.example.com:{site.port}"
        for other, context in (("dogs.example.com", trusting), ("cats.example.com", None), ("127.0.0.1", trusting)):
            with pytest.raises(FetchFailed, match="its certificate is not valid for it"):
                url = f"https://{other}:{site.port}/"
                await guard(tls=context).fetch(url, limit_bytes=9, timeout_seconds=5, to=tmp_path / "2")
        assert len(site.asked) == 1
    finally:
        site.close()


async def test_tls_of_an_address_is_checked_against_the_address(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "six", x509.IPAddress(ip_address("::1")))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    site = Site(serving, "::1")
    site.pages["/"] = page(b"1")
    try:
        six = Guard(allow=("::1/128",), tls=ssl.create_default_context(cafile=str(pem)))
        await six.fetch(f"https://[::1]:{site.port}/", limit_bytes=9, timeout_seconds=5, to=tmp_path / "1")
        assert site.asked[0][2]["host"] == f"[::1]:{site.port}"
    finally:
        site.close()


# POST


async def test_a_post_gives_status_headers_and_the_start_of_the_answer(site: Site) -> None:
    site.pages["/hook"] = page(b"busy,\r\n come\x00 back " + b"y" * 100_000, 503, Retry_After="7")
    url = f"http://a.example:{site.port}/hook"
    result = await guard().post(url, b'{"a": 1}', {"content-type": "application/json", "webhook-id": "m"}, 5)
    assert (result.status, result.headers["retry-after"]) == (503, "7")
    assert result.note.startswith("busy, come\N{REPLACEMENT CHARACTER} back yyy") and len(result.note) == 200
    [(method, _, headers, body)] = site.asked
    assert (method, body, headers["webhook-id"], headers["content-length"]) == ("POST", b'{"a": 1}', "m", "8")


async def test_a_post_follows_no_redirect(site: Site) -> None:
    site.pages["/"] = page(b"", 307, location="http://169.254.169.254/")
    assert (await guard().post(f"http://a.example:{site.port}/", b"", {}, 5)).status == 307
    assert len(site.asked) == 1


async def test_a_post_is_guarded_and_bounded(site: Site) -> None:
    with pytest.raises(FetchRefused):
        await Guard().post(f"http://127.0.0.1:{site.port}/", b"", {}, 5)
    release = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        release.wait(20)

    site.pages["/"] = silent
    try:
        with pytest.raises(FetchFailed, match=r"took longer than 0\.2 s"):
            await guard().post(f"http://a.example:{site.port}/", b"", {}, 0.2)
    finally:
        release.set()
