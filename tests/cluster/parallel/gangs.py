"""Processes that form gangs of any size, one after the other, over gloo."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
LIMIT = 110.0  # seconds for a job, the start of the workers included
EXCHANGE = timedelta(seconds=60)  # for one collective
# The server imports this once, and its children, the workers, have it.
PRELOAD = ["zoetrope.cluster.parallel.runner", "zoetrope.model.checkpoints.load", "tests.cluster.parallel.jobs"]


class Gangs:
    """Workers that are started when they are first needed, and again after a failure."""

    def __init__(self, directory: Path) -> None:
        """``directory``: where the ranks of a gang find each other."""
        self._directory = directory
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self._number = itertools.count()

    def run(self, ranks: int, job: Callable[..., T], *args: Any) -> list[T]:
        """What ``job(*args)`` returns on each rank of a gang. Raises AssertionError with the traceback of a rank."""
        while len(self._workers) < ranks:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            self._workers.append((process, ours))
        meeting = self._directory / f"gang-{next(self._number)}"
        for rank, (_, connection) in enumerate(self._workers[:ranks]):
            connection.send_bytes(pickle.dumps((job, args, rank, ranks, f"file://{meeting}")))
        results: list[T] = []
        deadline = time.monotonic() + LIMIT
        for rank, (_, connection) in enumerate(self._workers[:ranks]):
            try:
                if not connection.poll(max(deadline - time.monotonic(), 0.0)):
                    raise AssertionError(f"rank {rank} of {ranks} took longer than {LIMIT} s")
                good, value = pickle.loads(connection.recv_bytes())
            except BaseException:
                self.close()
                raise
            if not good:
                self.close()  # the others may be waiting for it
                raise AssertionError(f"rank {rank} of {ranks} failed:\n{value}")
            results.append(value)
        return results

    def close(self) -> None:
        for process, connection in self._workers:
            process.kill()
            process.join()
            connection.close()
        self._workers = []


def _work(connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            job, args, rank, ranks, meeting = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            dist.init_process_group("gloo", meeting, EXCHANGE, world_size=ranks, rank=rank)
            answer = pickle.dumps((True, job(*args)))
            dist.barrier()  # who leaves first would break the groups that slower ranks are still making
            dist.destroy_process_group()
        except Exception:
            answer = pickle.dumps((False, traceback.format_exc()))
        connection.send_bytes(answer)
