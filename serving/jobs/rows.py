"""Jobs as rows of the database, and back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from serving.jobs.database import Row
from serving.jobs.job import Job, NewJob, Preview, Stage, State, Webhook

INSERT = (
    "INSERT INTO job (id, owner, key_id, state, model, kind, spec, steps, seconds, request_id, fingerprint, labels,"
    " priority, deadline_at, retention_seconds, origin, webhook, verdicts, media, traceparent, warnings, created_at)"
    " VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (owner, request_id) WHERE request_id IS NOT NULL DO NOTHING"
)


class Encoded:
    """A new job in the form in which it is stored, but for the time of its creation. The work is done before any
    transaction, which others wait for.

    Raises:
        TypeError: the spec, the origin or a verdict is no JSON.
    """

    def __init__(self, new: NewJob) -> None:
        task = new.spec.get("task")
        spec, origin = json.dumps(new.spec), json.dumps(dict(new.origin))
        verdicts, media = [dict(verdict) for verdict in new.verdicts], list(dict.fromkeys(new.media))
        self.new = new
        self._values = (
            new.id,
            new.owner,
            new.key_id,
            new.model,
            str(task.get("kind", "")) if isinstance(task, dict) else "",
            spec,
            new.steps,
            new.seconds,
            new.request_id,
            new.fingerprint,
            json.dumps(dict(new.labels)),
            new.priority,
            new.deadline_at,
            new.retention_seconds,
            origin,
            None if new.webhook is None else json.dumps(asdict(new.webhook)),
            json.dumps(verdicts),
            json.dumps(media),
            new.traceparent,
            json.dumps(list(new.warnings)),
        )
        self._job = Job(
            id=new.id,
            owner=new.owner,
            state=State.QUEUED,
            stage=None,
            model=new.model,
            spec=json.loads(spec),  # as it reads later: JSON knows no tuples
            step=0,
            steps=new.steps,
            created_at=0.0,
            started_at=None,
            finished_at=None,
            attempt=0,
            lease_epoch=0,
            lease_owner=None,
            lease_until=None,
            cancel_requested=False,
            error_code=None,
            error_message=None,
            result=None,
            eta_seconds=None,
            key_id=new.key_id,
            labels=dict(new.labels),
            priority=new.priority,
            deadline_at=new.deadline_at,
            retention_seconds=new.retention_seconds,
            seconds=new.seconds,
            origin=json.loads(origin),
            webhook=new.webhook,
            verdicts=tuple(json.loads(json.dumps(verdicts))),
            media=tuple(media),
            traceparent=new.traceparent,
            warnings=tuple(new.warnings),
        )

    @property
    def media(self) -> tuple[str, ...]:
        return self._job.media

    def values(self, created_at: float) -> tuple[Any, ...]:
        """For `INSERT`."""
        return (*self._values, created_at)

    def job(self, created_at: float) -> Job:
        return replace(self._job, created_at=created_at)


def webhook_of(row: Row) -> Webhook | None:
    """Where the client of a job's row wants to be told."""
    if row["webhook"] is None:
        return None
    values = json.loads(row["webhook"])
    return Webhook(values["url"], tuple(values["events"]))


def preview_of(row: Row) -> Preview | None:
    return None if row["preview"] is None else Preview(**json.loads(row["preview"]))


def job_of(row: Row) -> Job:
    """A row of `SELECT * FROM job`."""
    return Job(
        id=row["id"],
        owner=row["owner"],
        state=State(row["state"]),
        stage=None if row["stage"] is None else Stage(row["stage"]),
        model=row["model"],
        spec=json.loads(row["spec"]),
        step=row["step"],
        steps=row["steps"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        attempt=row["attempt"],
        lease_epoch=row["lease_epoch"],
        lease_owner=row["lease_owner"],
        lease_until=row["lease_until"],
        cancel_requested=bool(row["cancel_requested"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        result=None if row["result"] is None else json.loads(row["result"]),
        eta_seconds=row["eta_seconds"],
        warnings=tuple(json.loads(row["warnings"])),
        key_id=row["key_id"],
        labels=json.loads(row["labels"]),
        priority=row["priority"],
        deadline_at=row["deadline_at"],
        retention_seconds=row["retention_seconds"],
        expire_at=row["expire_at"],
        seconds=row["seconds"],
        origin=json.loads(row["origin"]),
        webhook=webhook_of(row),
        preview=preview_of(row),
        verdicts=tuple(json.loads(row["verdicts"])),
        media=tuple(json.loads(row["media"])),
        traceparent=row["traceparent"],
        notice=row["notice"],
    )
