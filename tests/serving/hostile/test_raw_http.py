"""Bytes that no HTTP library would send, forms that no browser makes, and bodies of any size."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import httpx
import pytest

from tests.serving.gateway.http.samples import picture
from tests.serving.hostile.kit import Target

FORM = "multipart/form-data; boundary=b"


def exchange(found: Target, sent: bytes, half_close: bool = False) -> bytes:
    """What comes back until the gateway closes the connection.

    Args:
        half_close: the client ends, which may well be before its answer.
    """
    host, port = found.service.gateway.bound["http"].rsplit(":", 1)
    received = bytearray()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was closed before everything was read
        try:
            while data := connection.recv(65_536):
                received += data
        except ConnectionResetError:
            pass  # the same; what it had answered has come
    return bytes(received)


def status_of(found: Target, answer: bytes, sent: bytes) -> int | None:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return None
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    assert match is not None, answer[:200]
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    headers = {name.decode().lower(): value.strip().decode("latin-1") for name, _, value in lines}
    found.check(int(match[1]), headers, body, f"RAW {sent[:300]!r}")
    return int(match[1])


def post(path: str, body: bytes, **headers: str) -> bytes:
    every = {"host": "localhost", "content-length": str(len(body)), "connection": "close"}
    every |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in every.items() if value)
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def get(target: str, *lines: str, version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"GET {target} {version}", *lines, "connection: close", "", ""]).encode("latin-1")


def part(name: str, value: bytes = b"1", filename: str | None = None, more: str = "") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\ncontent-disposition: form-data; name="{name}"{file}\r\n{more}\r\n'.encode() + value + b"\r\n"


END = b"--b--\r\n"
PNG = part("content", picture(), "a.png")
FORMS: dict[str, tuple[str, bytes]] = {
    "thousands of fields": (FORM, b"".join(part(f"f{i}") for i in range(5_000)) + END),
    "thousands of files": (FORM, b"".join(part(f"f{i}", b"1", "a") for i in range(5_000)) + END),
    "one field thousands of times": (FORM, part("prompt") * 5_000 + END),
    "no boundary": ("multipart/form-data", PNG + END),
    "an empty boundary": ("multipart/form-data; boundary=", PNG + END),
    "a boundary of 10 KB": ("multipart/form-data; boundary=" + "b" * 10_000, PNG + END),
    "another boundary": ("multipart/form-data; boundary=c", PNG + END),
    "no end": (FORM, PNG),
    "no parts": (FORM, END),
    "nothing": (FORM, b""),
    "no name": (FORM, b"--b\r\ncontent-disposition: form-data\r\n\r\n1\r\n" + END),
    "no disposition": (FORM, b"--b\r\n\r\n1\r\n" + END),
    "part headers of 1 MB": (FORM, part("content", b"1", "a", "x: " + "y" * 1_000_000 + "\r\n") + END),
    "thousands of part headers": (FORM, part("content", b"1", "a", "x: y\r\n" * 20_000) + END),
    "no bytes": (FORM, part("content", b"", "a.png") + END),
    "not UTF-8": (FORM, PNG + part("type", b"\xff\xfe\xc0") + END),
    "NUL in a name": (FORM, part("con\0tent", picture(), "a") + END),
    "an odd charset": (FORM + "; charset=utf-7", PNG + END),
    "an unknown charset": (FORM + "; charset=\xff", PNG + END),
    "a transfer encoding": (FORM, part("content", b"AAAA", "a", "content-transfer-encoding: base64\r\n") + END),
    "a form in a form": (FORM, part("content", PNG + END, None, "content-type: multipart/mixed; boundary=c\r\n") + END),
    "urlencoded": ("application/x-www-form-urlencoded", b"content=" + b"%" * 50_000),
    "thousands of urlencoded fields": ("application/x-www-form-urlencoded", b"a=1&" * 50_000),
    "deep metadata": (FORM, PNG + part("metadata", b'{"a":' * 900 + b"1" + b"}" * 900) + END),
    "too deep metadata": (FORM, PNG + part("metadata", b"[" * 3_900) + END),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("path", ["/v1/files", "/v1/videos", "/v1/videos/edits"])
def test_odd_forms(found: Target, path: str, name: str) -> None:
    kind, body = FORMS[name]
    sent = post(path, body, content_type=kind)
    status = status_of(found, exchange(found, sent), sent)
    # Some are odd, and fine for an upload, whose bytes are all there.
    fine = path == "/v1/files" and name in ("not UTF-8", "deep metadata", "no end")
    assert status is not None and (400 <= status < 500 or (fine and status == 201)), (status, name)


NAMES = [
    "a\r\nset-cookie: x=y",
    'a"; x="b',
    "../../../etc/passwd",
    "/etc/passwd",
    "é🐈\u202egnp.exe",
    "x" * 5_000,
    "\\\\h\\c",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_stay_text(found: Target, name: str) -> None:
    """Nothing of a name becomes a header or a path."""
    made = found.web.post("/v1/files", files={"content": ("x", picture())}, data={"filename": name})
    found.check(made.status_code, made.headers, made.content, "POST /v1/files")
    assert made.status_code == 201, made.text
    answer = found.web.get(f"/v1/files/{made.json()['id']}/download")
    assert answer.content == picture()
    assert "set-cookie" not in answer.headers
    assert re.fullmatch(r'inline; filename="[A-Za-z0-9._-]+"', answer.headers["content-disposition"])
    here = [path for path in found.service.settings.directory.rglob("*") if path.is_file()]
    assert not [path.name for path in here if "passwd" in path.name or "x" * 100 in path.name or "cookie" in path.name]
    assert list(found.service.settings.scratch.iterdir()) == []


UPGRADE = (
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: " + b"A" * 22 + b"=="
)
UPGRADE = get("/v1/videos", "host: x").replace(b"connection: close", UPGRADE)
RAW: dict[str, bytes] = {
    "nothing": b"\r\n\r\n",
    "noise": bytes(range(256)) * 20,
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\0" * 190,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 100,
    "HTTP/0.9": b"GET /v1/videos\r\n\r\n",
    "HTTP/3.7": get("/v1/videos", "host: x", version="HTTP/3.7"),
    "HTTP/1.0": get("/v1/videos", version="HTTP/1.0"),
    "no host": get("/v1/predictions"),
    "two hosts": get("/v1/predictions", "host: x", "host: y"),
    "a bracket for a host": get("/v1/predictions?cursor=", "host: ["),
    "a host with a space": get("/v1/predictions", "host: a b"),
    "a host with a path": get("/v1/predictions", "host: a/b?c#d@e"),
    "a host with a port of letters": get("/openapi.json", "host: a:bcd"),
    "a host of NUL": get("/openapi.json", "host: \0"),
    "bytes in the query": get("/v1/predictions?cursor=\xff\xfe", "host: x"),
    "quoted bytes in the query": get("/v1/predictions?cursor=%ff%fe&created_after=%c0", "host: x"),
    "bytes in the path": get("/v1/predictions/\xff", "host: x"),
    "quoted bytes in the path": get("/v1/predictions/%ff%fe%00%0d%0aset-cookie:x", "host: x"),
    "a slash after quoted lines": get("/v1/videos/%0d%0aset-cookie:%20x/", "host: x"),
    "an absolute target": get("http://169.254.169.254/latest/meta-data/", "host: x"),
    "a target of 100 KB": get("/v1/videos/" + "a" * 100_000, "host: x"),
    "headers of 200 KB": get("/v1/videos", "host: x", *(f"x{i}: {'y' * 1_000}" for i in range(200))),
    "thousands of headers": get("/v1/videos", "host: x", *["a: b"] * 20_000),
    "NUL in a header": get("/v1/videos", "host: x", "a: \0"),
    "a folded header": b"GET /healthz HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\nconnection: close\r\n\r\n",
    "a websocket": get(
        "/v1/videos", "host: x", "upgrade: websocket", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="
    ).replace(b"connection: close", b"connection: upgrade\r\nsec-websocket-version: 13"),
    "connect": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "trace": b"TRACE /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\nconnection: close\r\n\r\n",
    "an unknown method": b"BREW /v1/videos HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "two lengths": post("/v1/videos", b"{}", content_length="2\r\ncontent-length: 3"),
    "a negative length": post("/v1/videos", b"{}", content_length="-2"),
    "a length of letters": post("/v1/videos", b"{}", content_length="0x2"),
    "a length of 10^30": post("/v1/videos", b"{}", content_length="1" + "0" * 30),
    "a length and chunks": post("/v1/videos", b"2\r\n{}\r\n0\r\n\r\n", transfer_encoding="chunked"),
    "chunks of letters": post("/v1/videos", b"zz\r\n{}\r\n0\r\n\r\n", content_length="", transfer_encoding="chunked"),
    "a chunk of 2^64": post("/v1/videos", b"f" * 16 + b"\r\n{}", content_length="", transfer_encoding="chunked"),
    "chunks without an end": post("/v1/videos", b"2\r\n{}\r\n", content_length="", transfer_encoding="chunked"),
    "an unknown encoding": post("/v1/videos", b"{}", content_length="", transfer_encoding="gzip, chunked"),
    "a body that breaks off": post(
        "/v1/videos", b'{"prompt": ', content_length="1000", content_type="application/json"
    ),
    "a form that breaks off": post("/v1/files", PNG[:100], content_length="9999", content_type=FORM),
    "two requests at once": get("/healthz", "host: x").replace(b"connection: close\r\n", b"") * 2
    + get("/healthz", "host: x"),
    "a smuggled request": post("/v1/videos", b"0\r\n\r\nGET /v1/account HTTP/1.1\r\n", transfer_encoding="chunked, x"),
}


# Nothing more comes, which the gateway cannot know.
UNFINISHED: tuple[str, ...] = (
    "nothing",
    "TLS",
    "noise",
    "chunks without an end",
    "a body that breaks off",
    "a form that breaks off",
)
UNFINISHED += ("a chunk of 2^64", "a length of 10^30", "a websocket")
NO_REQUESTS = ("noise", "TLS", "HTTP/0.9", "two hosts", "a negative length", "two lengths", "a length of letters")


@pytest.mark.parametrize("name", RAW)
def test_odd_bytes(found: Target, name: str) -> None:
    """An answer that is no error of ours, or none for what is no request; and the gateway goes on."""
    answer = exchange(found, RAW[name], half_close=name in UNFINISHED)
    status = status_of(found, answer, RAW[name])
    if name in NO_REQUESTS:
        assert status in (None, 400), status
    head = answer.lower().partition(b"\r\n\r\n")[0]
    assert b"\nset-cookie" not in head
    assert b"Bearer secret" not in answer
    found.check_alive()


def nested(depth: int, kind: str) -> str:
    return "[" * depth + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth


JSON_DOORS: dict[str, tuple[str, str]] = {
    "replicate": ("/v1/predictions", '{"version": "wan-video/nano", "input": @}'),
    "replicate's own model": (
        "/v1/models/wan-video/nano/predictions",
        '{"input": {"task": {"kind": "reference_to_video", "prompt": "x", "references": @}}}',
    ),
    "openai": ("/v1/videos", '{"prompt": "x", "input_reference": @}'),
    "dashscope": (
        "/api/v1/services/aigc/video-generation/video-synthesis",
        '{"model": "wan2.7-t2v", "input": {"prompt": "x", "media": @}}',
    ),
    "fal": ("/fal-ai/wan/v2.7/reference-to-video", '{"prompt": "x", "reference_image_urls": @}'),
    "the dashboard": ("/dashboard/jobs", '{"prompt": @}'),
}


@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize("depth", [20, 60, 250, 490, 900, 985, 20_000])
@pytest.mark.parametrize("door", JSON_DOORS)
def test_deep_json(found: Target, door: str, depth: int, kind: str) -> None:
    path, text = JSON_DOORS[door]
    body = text.replace("@", nested(depth, kind))
    answer = found.web.post(path, content=body, headers={"x-dashscope-async": "enable"}, timeout=20)
    found.check(answer.status_code, answer.headers, answer.content, f"POST {path} {body[:200]}")
    assert 400 <= answer.status_code < 500


NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1" + "0" * 400,
    "-1" + "0" * 4_000,
    "1" * 5_000,
    "1e308",
    "-0.0",
]
FIELDS = {
    "replicate": ("duration", "num_frames", "frames_per_second", "num_inference_steps", "guidance_scale", "seed"),
    "replicate's own model": ("duration_seconds", "frames", "fps", "steps", "guidance", "guidance_low", "seed"),
    "openai": ("seconds", "num_frames", "fps", "num_inference_steps", "guidance_scale", "seed", "width", "n"),
    "dashscope": ("duration", "num_inference_steps", "guidance_scale", "seed"),
    "fal": ("duration", "num_frames", "frames_per_second", "num_inference_steps", "guidance_scale", "shift", "seed"),
    "the dashboard": ("duration_seconds", "frames", "fps", "steps", "guidance", "guidance_low", "flow_shift", "seed"),
}
PLAIN = {
    "replicate": ("/v1/models/wan-video/wan-2.7-t2v/predictions", '{"input": {"prompt": "x", @}}'),
    "replicate's own model": (
        JSON_DOORS["replicate's own model"][0],
        '{"input": {"task": {"kind": "text_to_video", "prompt": "x"}, @}}',
    ),
    "openai": ("/v1/videos", '{"prompt": "x", @}'),
    "dashscope": (JSON_DOORS["dashscope"][0], '{"model": "wan2.7-t2v", "input": {"prompt": "x"}, "parameters": {@}}'),
    "fal": ("/fal-ai/wan/v2.7/text-to-video", '{"prompt": "x", @}'),
    "the dashboard": ("/dashboard/jobs", '{"prompt": "x", @}'),
}


@pytest.mark.parametrize("door", PLAIN)
def test_numbers_that_are_none(found: Target, door: str) -> None:
    path, text = PLAIN[door]
    with httpx.Client(base_url=found.service.http, headers={"x-dashscope-async": "enable"}, timeout=20) as web:
        for field in FIELDS[door]:
            for number in NUMBERS:
                if (number, field) in (("-0.0", field),) and field in ("guidance_scale", "guidance", "seed"):
                    continue  # which is nothing but zero
                answer = web.post(path, content=text.replace("@", f'"{field}": {number}'))
                found.check(answer.status_code, answer.headers, answer.content, f"POST {path} {field}={number:.20}")
                assert 400 <= answer.status_code < 500, (field, number[:20], answer.text)


@pytest.mark.parametrize(
    "source",
    [
        *("data:", "data:,", "data:;base64,", "data:;base64,!!!", "data:;base64,A", "data:image/png;base64,AAAA"),
        *("data:image/png;base64," + "A" * 200_000, "data:;base64;base64,AAAA", "data:" + "x" * 100_000 + ",a"),
        *(
            "data:text/html,<script>",
            "data:;base64,%00%ff",
            "data:,%zz%",
            "DATA:;base64,AAAA",
            "data:;base64,iVBORw0KGgo=",
        ),
    ],
    ids=lambda source: str(source)[:30],
)
def test_data_addresses(found: Target, source: str) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/videos", {"prompt": "x", "input_reference": source}),
        ("/v1/models/wan-video/wan-2.7-i2v/predictions", {"input": {"first_frame": source}}),
        ("/dashboard/jobs", {"prompt": "x", "image": source}),
        (JSON_DOORS["dashscope"][0], {"model": "wan2.7-i2v", "input": {"img_url": source}}),
        ("/fal-ai/wan-i2v", {"image_url": source}),
    ]
    for path, body in bodies:
        answer = found.web.post(path, json=body, headers={"x-dashscope-async": "enable"}, timeout=30)
        found.check(answer.status_code, answer.headers, answer.content, f"POST {path} {source[:50]}")
        assert 400 <= answer.status_code < 500, answer.text


def test_bodies_have_limits(found: Target) -> None:
    """The answer comes before the body has: whoever sends more than the limit is told so, and nothing is kept."""
    for path, kind, start in (
        ("/v1/videos", "application/json", b'{"prompt": "'),
        ("/v1/predictions", "application/json", b'{"input": "'),
        ("/v1/files", FORM, b'--b\r\ncontent-disposition: form-data; name="content"; filename="a"\r\n\r\n'),
    ):
        sent = post(path, start + b"x" * (16 << 20), content_type=kind, content_length=str(1 << 40))
        answer = exchange(found, sent)
        assert status_of(found, answer, sent[:200]) in (400, 413), answer[:200]
        assert b"bytes that are allowed" in answer
    assert list(found.service.settings.scratch.glob("*")) == []
    found.check_alive()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../../../../etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/jobs.db",
            "....//jobs.db",
            "%00",
            "a%00.mp4",
        ),
        *("/etc/passwd", "%5c..%5c", "jobs.db", "media%2fx", "%252e%252e%252f", "~", "*", "' OR '1'='1"),
    ],
)
def test_ids_are_no_paths(found: Target, name: str) -> None:
    document = found.web.get("/openapi.json").json()
    with httpx.Client(base_url=found.service.http, timeout=20) as web:
        for path, methods in document["paths"].items():
            if "{" not in path:
                continue
            for method in methods:
                answer = web.request(method.upper(), re.sub(r"\{\w+\}", name, path), json={})
                found.check(answer.status_code, answer.headers, answer.content, f"{method} {path} {name}")
                assert b"root:" not in answer.content and b"SQLite format" not in answer.content
                assert answer.status_code in (307, 400, 401, 403, 404, 405, 422), (method, path, name, answer.text)


def test_reports_are_json_everywhere(found: Target) -> None:
    """An error never echoes what a browser would run."""
    script = "<script>alert(1)</script>"
    for path in (
        f"/v1/videos/{script}",
        f"/v1/videos?after={script}",
        f"/v1/files?cursor={script}",
        f"/nothing/{script}",
    ):
        answer = found.web.get(path)
        assert answer.headers["content-type"].split(";")[0] in ("application/json", "application/problem+json")
        json.loads(answer.content)


def test_a_body_of_two_lengths(found: Target) -> None:
    """What follows it may be meant as part of it: it is no request, whoever counts how."""
    head = "POST /zoetrope/nano HTTP/1.1\r\nhost: localhost\r\ncontent-length: 41\r\ntransfer-encoding: chunked\r\n\r\n"
    sent = f"{head}0\r\n\r\nGET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    answer = exchange(found, sent)
    assert (status_of(found, answer, sent), answer.count(b"HTTP/1.1")) == (400, 1)
