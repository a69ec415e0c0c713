"""How long a caller's place stays taken after a JSON body."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from starlette.requests import Request
from starlette.types import Message

from zoetrope.serving.gateway.http.common.bodies import Bodies, read_json
from zoetrope.serving.gateway.limits.pace import Pace


class RecordingPace(Pace):
    """Records the sizes after which callers rest."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def rest(self, size: int) -> float:
        self.sizes.append(size)
        return 0.0


def request(body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Request:
    pieces = [body[start : start + 4096] for start in range(0, len(body), 4096)]

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    return Request({"type": "http", "method": "POST", "headers": list(headers), "state": {}}, receive)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_body_counts_by_its_size_however_it_is_announced(chunked: bool) -> None:
    body = json.dumps({"prompt": "x" * (1 << 20)}).encode()
    headers = [(b"transfer-encoding", b"chunked")] if chunked else [(b"content-length", b"%d" % len(body))]
    pace = RecordingPace()
    sent = request(body, headers)
    async with Bodies(pace).turn(sent, "one", form=False):
        await read_json(sent)
    assert pace.sizes == [len(body)]


async def test_a_body_that_is_refused_counts_too() -> None:
    pace = RecordingPace()
    sent = request(b"[" * 30_000, [(b"transfer-encoding", b"chunked")])
    with pytest.raises(Exception, match="commas, colons, brackets and braces"):
        async with Bodies(pace).turn(sent, "one", form=False):
            await read_json(sent)
    assert pace.sizes[0] >= 20_000
