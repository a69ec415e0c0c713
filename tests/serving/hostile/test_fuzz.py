"""A short run of each fuzzer; the long ones are programs, see their modules."""

from __future__ import annotations

import pytest
from schemathesis import GenerationMode

from tests.serving.hostile import fuzz, grpc_fuzz
from tests.serving.hostile.kit import Broken, Target


def test_http(found: Target) -> None:
    # Well-formed but for our own odd values; those against the schema take longer to make than to send.
    tally = fuzz.run(found, 150, seed=1, modes=(GenerationMode.POSITIVE,))
    assert tally.broken == []
    assert tally.cases >= 150
    assert len(tally.statuses) > 40, "every endpoint was asked"
    every = {status for counts in tally.statuses.values() for status in counts}
    assert {"200", "400", "404", "422"} <= every, "well-formed requests and malformed ones"


def test_grpc(found: Target) -> None:
    table, broken = grpc_fuzz.run(found, 200, seed=1)
    assert broken == []
    assert len(table) >= 25 and all(table.values())
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= {status for counts in table.values() for status in counts}


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (500, {}, b""),
        (200, {}, b'{"detail": "Traceback (most recent call last)"}'),
        (404, {"x-file": "{directory}/data/jobs.db"}, b""),
        (400, {}, b"no such file: {directory}/data/artifacts/x"),
    ],
)
def test_what_the_fuzzers_look_for(found: Target, status: int, headers: dict[str, str], body: bytes) -> None:
    directory = str(found.service.settings.directory.parent)
    headers = {name: value.replace("{directory}", directory) for name, value in headers.items()}
    with pytest.raises(Broken):
        found.check(status, headers, body.replace(b"{directory}", directory.encode()), "GET /", "/")
