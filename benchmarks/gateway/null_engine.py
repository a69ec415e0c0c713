"""A stand-in for the router without a model: claims jobs, reports steps, and completes all with the same small MP4.

    ZOETROPE_SETTINGS={...} python -m zoetrope.benchmarks.gateway.null_engine AT_ONCE STEPS STEP_SECONDS

Prints a line when ready and, when its stdin closes, the number of jobs completed; then exits.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.shutdown import when_stdin_ends
from zoetrope.serving.jobs.job import EngineRow, Job, Result, Stage, State
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.media.writer import VideoWriter
from zoetrope.serving.storage.store import open_artifacts

NAME = "null-engine"
KEY = "jobs/null/1/video.mp4"
WIDTH, HEIGHT, FRAMES, FPS = 40, 24, 8, 8
LEASE_SECONDS = 60.0
POLL_SECONDS = 0.05
SEEN_SECONDS = 1.0
THREADS = 32  # their writes share commits


def one_video(settings: Settings) -> Result:
    """Encode a small video and store it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        shades = np.linspace(0, 255, FRAMES, dtype=np.uint8)[:, None, None, None]
        with VideoWriter(path, WIDTH, HEIGHT, FPS, "mp4", {"title": NAME}) as writer:
            writer.write(np.broadcast_to(shades, (FRAMES, HEIGHT, WIDTH, 3)))
        video = open_artifacts(settings.artifacts_url).put_file(KEY, path, "video/mp4")
    return Result(video, None, frames=FRAMES, width=WIDTH, height=HEIGHT, fps=FPS, timings={"denoising": 0.0})


class NullEngine:
    """Runs up to ``at_once`` jobs at a time, each for ``steps`` steps of ``seconds``."""

    def __init__(self, store: JobStore, model: str, result: Result, at_once: int, steps: int, seconds: float) -> None:
        self._store, self._model, self._result = store, model, result
        self._at_once, self._steps, self._seconds = at_once, steps, seconds
        self._pool = ThreadPoolExecutor(THREADS)
        self.ended = 0

    def run(self, stop: threading.Event) -> None:
        """Claim and complete jobs until ``stop`` is set."""
        seen = 0.0
        while not stop.is_set():
            if time.monotonic() - seen > SEEN_SECONDS:
                self._store.put_engine(EngineRow(NAME, self._model, 1, 1, time.time()))
                seen = time.monotonic()
            wanted = [job.id for job in self._store.waiting((self._model,))][: self._at_once]
            jobs = self._store.claim(NAME, wanted, LEASE_SECONDS, 5)
            if not jobs:
                stop.wait(POLL_SECONDS)
                continue
            for step in range(1, self._steps + 1):
                stop.wait(self._seconds)
                list(self._pool.map(lambda job, step=step: self._note(job, step), jobs))
            if self._steps:
                stop.wait(self._seconds)
            self.ended += sum(self._pool.map(self._end, jobs))
        self._pool.shutdown()

    def _note(self, job: Job, step: int) -> None:
        left = (self._steps - step) * self._seconds
        self._store.progress(job.id, job.lease_epoch, stage=Stage.DENOISING, step=step, eta_seconds=left)

    def _end(self, job: Job) -> bool:
        return self._store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=self._result)


def main() -> None:
    settings = Settings.model_validate_json(os.environ["ZOETROPE_SETTINGS"])
    at_once, steps, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    stop = threading.Event()

    when_stdin_ends(stop.set)
    with closing(open_stores(settings.database_url)) as stores:
        engine = NullEngine(stores.jobs, settings.model[0], one_video(settings), at_once, steps, seconds)
        print("ready", flush=True)
        engine.run(stop)
        print(engine.ended, flush=True)


if __name__ == "__main__":
    main()
