"""JSON logs: an object a line, about the job at hand, without what clients wrote."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import pytest

from zoetrope.cluster.telemetry import logs
from zoetrope.cluster.telemetry.logs import JsonFormatter, TextFormatter, about, about_process


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter(lambda error: type(error).__name__))
    logger = logging.Logger("zoetrope.test")
    logger.addHandler(handler)
    return logger, out


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_says_when_who_and_what(
    log: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_always", {})
    about_process(component="router")
    log[0].warning("two\nlines of %s", "it")
    (line,) = lines(log[1])
    assert line.pop("time").endswith("Z") and line.pop("process") > 0
    assert line == {"level": "WARNING", "logger": "zoetrope.test", "message": "two\nlines of it", "component": "router"}


async def test_lines_of_a_job_name_it_whoever_else_is_at_work(log: tuple[logging.Logger, io.StringIO]) -> None:
    both = asyncio.Barrier(2)

    async def work(job: str, epoch: int) -> None:
        with about(job=job, epoch=epoch):
            await both.wait()
            log[0].info("working")
            with about(rank=3):
                await asyncio.to_thread(log[0].info, "in a thread")

    await asyncio.gather(work("a", 1), work("b", 2))
    log[0].info("done", extra={"rank": 7})
    found = [(line["message"], line.get("job"), line.get("epoch"), line.get("rank")) for line in lines(log[1])]
    assert sorted(found[:4], key=str) == [
        ("in a thread", "a", 1, 3), ("in a thread", "b", 2, 3), ("working", "a", 1, None), ("working", "b", 2, None)
    ]  # fmt: skip
    assert found[4] == ("done", None, None, 7)


def test_an_exception_is_formatted_without_its_message(log: tuple[logging.Logger, io.StringIO]) -> None:
    try:
        raise ValueError("a prompt")
    except ValueError:
        log[0].exception("it failed")
    (line,) = lines(log[1])
    assert line["exception"] == "ValueError" and "prompt" not in log[1].getvalue()


def test_text_stays_as_it_was() -> None:
    record = logging.LogRecord("zoetrope.x", logging.INFO, "", 1, "hello %d", (5,), None)
    assert TextFormatter(str).format(record).endswith(" INFO zoetrope.x: hello 5")
