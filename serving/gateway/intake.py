"""The one way in: every API face turns its request into one call of Intake.submit."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.resolve import resolve
from model.tasks import MAX_SEED, InvalidRequest, ModelCard, VideoRequest, Violation, parse_request
from serving.jobs.job import Job
from serving.jobs.store import JobStore

MAX_REQUEST_ID_CHARS = 128
# Stands in for a task that is missing, so that the other fields are checked too.
ANY_TASK = {"kind": "text_to_video", "prompt": "any"}


class UnknownModel(Exception):
    """The request names a model that is not served."""

    def __init__(self, name: str, served: tuple[str, ...]) -> None:
        shown = name if len(name) <= 80 else name[:77] + "..."
        self.violation = Violation("model", f"{shown!r} is not served here; served: {', '.join(served)}")
        super().__init__(f"model: {self.violation.description}")


@dataclass(frozen=True)
class Intake:
    """Checks requests against the served model and stores them as jobs."""

    store: JobStore
    card: ModelCard
    max_queued: int

    def submit(self, data: dict[str, Any], *, owner: str, request_id: str, found: Sequence[Violation] = ()) -> Job:
        """Store a job, or find the one that an earlier call with this request id stored.

        Args:
            data: the fields of a model.tasks.VideoRequest; `task` may be missing, which is a violation.
            owner: the tenant, "" for none.
            request_id: "" for none.
            found: what the caller knows to be wrong with fields that it left out of `data`.

        Raises:
            InvalidRequest: with every field at fault.
            UnknownModel: the model is not served.
            RequestConflict: the request id was used for another request.
            QueueFull: too many jobs are queued.
        """
        bad = list(found)
        if len(request_id) > MAX_REQUEST_ID_CHARS:
            bad.append(
                Violation("request_id", f"has {len(request_id)} characters, at most {MAX_REQUEST_ID_CHARS} are allowed")
            )
        if data.get("task") is None:
            bad.append(Violation("task", f"is not set; {self.card.name} serves {', '.join(self.card.tasks)}"))
            data = {**data, "task": ANY_TASK}
        try:
            request = parse_request(data)
            if request.model not in ("", self.card.name):
                raise UnknownModel(request.model, (self.card.name,))
            spec = resolve(request, self.card, secrets.randbelow(MAX_SEED + 1))
        except InvalidRequest as error:
            raise InvalidRequest(*bad, *error.violations) from None
        if bad:
            raise InvalidRequest(*bad)
        return self.store.create(
            job_id=new_job_id(),
            owner=owner,
            model=self.card.name,
            spec=spec.to_dict(),
            steps=spec.steps * len(spec.spans),
            request_id=request_id or None,
            fingerprint=fingerprint(request, self.card.name),
            max_queued=self.max_queued,
        )


def new_job_id() -> str:
    """120 random bits in letters and digits that need no quoting anywhere."""
    return "vid_" + base64.b32encode(secrets.token_bytes(15)).decode().lower()


def fingerprint(request: VideoRequest, model: str) -> str:
    """SHA-256 of what was asked for. Defaults are left out, so that a field added later changes no stored one."""
    asked = request.model_dump(exclude_defaults=True)
    asked |= {"model": model, "kind": request.task.kind}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
