"""Jobs as the gateway stores them for the requests that the clients send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zoetrope.benchmarks.gateway.client import PROMPT
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import TextToVideo, VideoRequest
from zoetrope.serving.api.names import JOB_ID, new_id
from zoetrope.serving.gateway.submit.submission import fingerprint
from zoetrope.serving.jobs.job import NewJob

MODEL = "nano"


@dataclass
class JobMaker:
    """Makes jobs from one request as `serving.gateway.submit.submission` does, but resolves it only once."""

    prefix: str

    def __post_init__(self) -> None:
        card = find_model(MODEL)
        request = VideoRequest(task=TextToVideo(prompt=PROMPT.format(number=self.prefix)))
        spec = resolve(request, card, 1)
        self._spec, self._fingerprint = spec.to_dict(), fingerprint(request, card, {})
        self._steps, self._seconds = spec.steps * len(spec.spans), spec.frames / spec.fps
        self._model, self._made = card.name, 0

    def make(self, labels: dict[str, str]) -> NewJob:
        """Make the next job."""
        self._made += 1
        return NewJob(
            id=new_id(JOB_ID),
            owner="",
            key_id=None,
            model=self._model,
            spec=self._spec,
            steps=self._steps,
            seconds=self._seconds,
            request_id=f"{self.prefix}-{self._made}",
            fingerprint=self._fingerprint,
            labels=labels,
            priority=0,
            origin={"api": "grpc"},
        )

    def many(self, count: int, batches: int = 100) -> Iterator[NewJob]:
        """Yield jobs, each with a unique label ``number`` and one of ``batches`` values of the label ``batch``."""
        for number in range(count):
            yield self.make({"project": "benchmark", "batch": str(number % batches), "number": str(number)})
