"""The threads in which calls wait for the database and the disk."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from serving.gateway.callers import caller

Work = tuple[Future[Any], Callable[[], Any]]


class FairThreads(ThreadPoolExecutor):
    """The calls of one caller hold no more than a part of them, whatever they wait for; what else it asks for waits in
    line. What no caller asked for is not counted."""

    def __init__(self, threads: int, each: int) -> None:
        super().__init__(threads, thread_name_prefix="gateway")
        self._each = each
        self._counting = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._lines: defaultdict[str, deque[Work]] = defaultdict(deque)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        name = caller().name
        if not name:
            return super().submit(fn, *args, **kwargs)
        work: Work = Future(), lambda: fn(*args, **kwargs)
        with self._counting:
            if self._busy[name] >= self._each:
                self._lines[name].append(work)
                return work[0]
            self._busy[name] += 1
        super().submit(self._work, name, work)
        return work[0]

    def _work(self, name: str, work: Work | None) -> None:
        """One and then what waits in the same line."""
        while work is not None:
            _run(*work)
            with self._counting:
                line = self._lines.get(name)
                work = line.popleft() if line else None
                if work is None:
                    self._busy[name] -= 1
                    if not self._busy[name]:
                        del self._busy[name]
                        self._lines.pop(name, None)


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
        del future, call  # else they, the exception and all that its frames hold would wait for the garbage collector
    else:
        future.set_result(result)
