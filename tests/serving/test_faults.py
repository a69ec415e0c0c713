"""What a stage raises ends its job once, at once and with its reason, in a real service."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cli.service import ServiceProcess
from serving.client import VideoClient
from tests.serving.faults import FAULTS
from tests.serving.gateway.harness import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

READY_SECONDS = 180.0
SECONDS = 5.0  # for a job to fail; a death costs more
ASKED = [f"{stage} {name}" for stage in ("conditioner", "decoder") for name in FAULTS] + ["tail lock", "tail stop"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VideoClient, Path]]:
    folder = tmp_path_factory.mktemp("faults")
    command = [sys.executable, "-m", "tests.serving.faulty_service", str(folder / "data")]
    running = ServiceProcess(command, folder / "log", {**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        with VideoClient(running.wait_ready(READY_SECONDS).grpc) as client:
            yield client, folder / "data" / "calls"
    finally:
        assert running.stop() == []


def test_every_exception_ends_its_job_at_once_with_its_reason(service: tuple[VideoClient, Path]) -> None:
    client, calls = service
    assert len(ASKED) >= 40
    for prompt in ASKED:
        _, code, reason = FAULTS[prompt.partition(" ")[2]]
        started = time.monotonic()
        status = client.wait(client.create(prompt=prompt, duration_seconds=3.0, steps=1, guidance=1.0))
        assert status.error is not None, prompt
        assert (status.state, status.error.code, status.attempt) == ("failed", code, 1), (prompt, status.error)
        assert status.error.message.startswith(reason), (prompt, status.error.message)
        assert prompt not in status.error.message and "/nowhere" not in status.error.message
        assert time.monotonic() - started < SECONDS, prompt
    assert Counter(calls.read_text().splitlines()) == Counter(ASKED), "each was raised once"
    status = client.wait(client.create(prompt="a red circle", duration_seconds=3.0, steps=1))
    assert status.state == "succeeded", "the stages are as they were"
