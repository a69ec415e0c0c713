"""Share the threads in which calls wait for the database and the disk."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from zoetrope.serving.gateway.auth.callers import caller

Work = tuple[Future[Any], Callable[[], Any]]


class FairThreads(ThreadPoolExecutor):
    """Give each caller at most ``each`` of the threads; its further work waits in line. Work of no caller is not
    counted."""

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
        """Run a call, then those that wait behind it."""
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
        del future, call  # break the reference cycle with the exception, whose frames may hold much memory
    else:
        future.set_result(result)
