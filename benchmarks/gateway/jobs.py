"""The jobs that are made: what the gateway stores for a request such as the clients send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.gateway.client import PROMPT
from model.presets import find_model
from model.resolve import resolve
from model.tasks import TextToVideo, VideoRequest
from serving.api.names import JOB_ID, new_id
from serving.gateway.intake import fingerprint
from serving.jobs.job import NewJob

MODEL = "nano"


@dataclass
class JobMaker:
    """Makes jobs from the same request, as `serving.gateway.intake` does, but with the work done once."""

    prefix: str

    def __post_init__(self) -> None:
        card = find_model(MODEL)
        request = VideoRequest(task=TextToVideo(prompt=PROMPT.format(number=self.prefix)))
        spec = resolve(request, card, 1)
        self._spec, self._fingerprint = spec.to_dict(), fingerprint(request, card, {})
        self._steps, self._seconds = spec.steps * len(spec.spans), spec.frames / spec.fps
        self._model, self._made = card.name, 0

    def make(self, labels: Mapping[str, str]) -> NewJob:
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
        """With a label ``batch`` that one of ``batches`` jobs shares, and one ``number`` of their own."""
        for number in range(count):
            yield self.make({"project": "benchmark", "batch": str(number % batches), "number": str(number)})
