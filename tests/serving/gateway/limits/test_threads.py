"""Threads that no caller has to itself."""

from __future__ import annotations

import contextvars
import threading

import pytest

from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.auth.callers import set_caller
from zoetrope.serving.gateway.limits.threads import FairThreads


def as_caller(name: str) -> contextvars.Context:
    context = contextvars.Context()
    context.run(set_caller, Principal(key_id=name))
    return context


def test_a_caller_that_waits_leaves_threads_to_others() -> None:
    go = threading.Event()
    with FairThreads(4, 2) as threads:
        slow = [as_caller("slow").run(threads.submit, go.wait) for _ in range(20)]
        assert as_caller("other").run(threads.submit, lambda: 7).result(timeout=10) == 7
        assert threads.submit(lambda: 8).result(timeout=10) == 8
        assert sum(future.running() for future in slow) <= 2
        assert slow[-1].cancel()
        go.set()
        assert all(future.result(timeout=10) for future in slow[:-1])
        assert not threads._busy and not threads._lines


def test_errors_arrive() -> None:
    def fail() -> None:
        raise ValueError("x")

    with FairThreads(1, 1) as threads:
        futures = [as_caller("a").run(threads.submit, fail) for _ in range(3)]
        for future in futures:
            with pytest.raises(ValueError, match="x"):
                future.result(timeout=10)
