"""Logs as text or as JSON, one object a line, with the job, trace, epoch and rank that a line is about."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

Problem: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# What a line may be about; given by `about`, or as `extra` of a single call.
FIELDS = ("job", "trace", "epoch", "engine", "gang_epoch", "rank")
_about: ContextVar[dict[str, Any]] = ContextVar("about", default={})  # noqa: B039  # never changed in place
_always: dict[str, Any] = {}


def about_process(**fields: str | int) -> None:
    """Say what every line of this process is about from now on."""
    _always.update(fields)


@contextmanager
def about(**fields: str | int) -> Iterator[None]:
    """Say what the lines that this task logs inside the block are about."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


class TextFormatter(logging.Formatter):
    """Formats exceptions by a function that leaves out what clients wrote."""

    def __init__(self, describe: Callable[[BaseException], str], text: str = TEXT) -> None:
        super().__init__(text)
        self._describe = describe

    def formatException(self, info: Problem) -> str:  # noqa: N802
        return self._describe(info[1]) if info[1] is not None else ""


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time, level, logger, component, process, message, FIELDS, exception."""

    def __init__(self, describe: Callable[[BaseException], str]) -> None:
        """``describe``: formats an exception without what clients wrote."""
        super().__init__()
        self._describe = describe

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {
            "time": at,
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **_always,
            **_about.get(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = self._describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)
