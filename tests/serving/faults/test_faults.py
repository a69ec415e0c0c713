"""What a stage raises ends its job once, at once and with its reason, or is waited for, in a real service."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.serving.faults.faults import FAULTS, PASSING
from tests.serving.gateway.harness import ROOT
from zoetrope.serving.cli.service import ServiceProcess
from zoetrope.serving.client import OperationStatus, VideoClient
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.stages.isolation import MAX_DEATHS

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

READY_SECONDS = 180.0
SECONDS = 5.0  # for a job to fail; a death costs more
PASSING_SECONDS = 240.0
ASKED = [f"{stage} {name}" for stage in ("conditioner", "decoder") for name in FAULTS] + ["tail lock", "tail stop"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VideoClient, Path]]:
    folder = tmp_path_factory.mktemp("faults")
    command = [sys.executable, "-m", "tests.serving.faults.faulty_service", str(folder / "data")]
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
    twice = [prompt for prompt in ASKED if prompt.endswith(" memory")]  # for want of memory, once more alone
    assert Counter(calls.read_text().splitlines()) == Counter([*ASKED, *twice]), "each was raised once"
    status = client.wait(client.create(prompt="a red circle", duration_seconds=3.0, steps=1))
    assert status.state == "succeeded", "the stages are as they were"


def test_what_passes_is_waited_for_and_only_the_deadly_fail(service: tuple[VideoClient, Path]) -> None:
    """All at the same time: whoever brings a decoder or a conditioner down has neighbours in it."""
    client, calls = service
    prompts = [f"{stage} {name} please" for stage in ("conditioner", "decoder") for name in PASSING]
    names = {prompt: client.create(prompt=prompt, size="40x24", frames=1, steps=1) for prompt in [*prompts, "a circle"]}
    notices: dict[str, set[str]] = defaultdict(set)
    statuses: dict[str, OperationStatus] = {}
    end = time.monotonic() + PASSING_SECONDS
    with closing(open_stores(f"sqlite:///{calls.parent / 'jobs.db'}")) as stores:
        while len(statuses) < len(names):
            assert time.monotonic() < end, names.keys() - statuses.keys()
            for prompt, name in names.items():
                job = stores.jobs.get(name.removeprefix("operations/"), "")
                assert job is not None
                notices[prompt].add(job.notice)
                if job.state.final:
                    statuses[prompt] = client.get(name)
                    assert job.notice == ""
            time.sleep(0.05)
    times = Counter(calls.read_text().splitlines())
    for prompt in prompts:
        stage, name, _ = prompt.split(" ")
        _, count, what = PASSING[name]
        status = statuses[prompt]
        assert status.attempt == 1, prompt
        if name == "deadly":
            assert status.error is not None
            assert status.error.message == f"the {stage} died {MAX_DEATHS} times while it worked on this job alone"
            assert MAX_DEATHS <= times[prompt] <= MAX_DEATHS + 1, "a neighbour may have come first once"
        else:
            assert status.state == "succeeded", (prompt, status.error)
            assert times[prompt] >= count + 1
        assert any(seen.startswith(f"waiting for {what.format(stage=stage)}") for seen in notices[prompt]), notices
    assert statuses["a circle"].state == "succeeded"
