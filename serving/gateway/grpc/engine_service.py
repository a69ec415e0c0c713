# ruff: noqa: N802 (the methods are named as in the proto)
"""zoetrope.video.v1.EngineService: what the engines run, and what waits for them."""

from __future__ import annotations

from typing import Any

from zoetrope.serving.api.names import OPERATIONS
from zoetrope.serving.api.zoetrope.video.v1 import engines_pb2
from zoetrope.serving.gateway.auth.callers import caller
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.core.overview import EngineSeen, QueueSeen, overview, step_figures
from zoetrope.serving.gateway.grpc.encode import timestamp
from zoetrope.serving.gateway.submit.listing import page_of
from zoetrope.serving.gateway.watch.outlook import Outlook
from zoetrope.serving.jobs.job import Job


class EngineService:
    """The servicer."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def ListEngines(
        self, request: engines_pb2.ListEnginesRequest, context: Any
    ) -> engines_pb2.ListEnginesResponse:
        found = await overview(self._core, caller())
        page, following = page_of(found.engines, request.page_size, request.page_token, "engines")
        return engines_pb2.ListEnginesResponse(
            engines=[_engine(engine) for engine in page],
            next_page_token=following,
            queues=[_queue(queue) for queue in found.queues],
            waiting=[_waiting(*pair) for pair in found.waiting],
        )


def _engine(engine: EngineSeen) -> engines_pb2.Engine:
    row, figures = engine.row, step_figures(engine.row)
    return engines_pb2.Engine(
        name=row.id,
        model=row.model,
        ranks=row.ranks,
        state=row.state,
        gangs_lost=row.restarts,
        segments=[
            engines_pb2.EngineSegment(
                operation=OPERATIONS + segment.job.id,
                segment=segment.index,
                step=segment.step,
                steps=segment.steps,
                tokens=segment.tokens,
                advances=segment.advances,
            )
            for segment in engine.segments
        ],
        other_segments=engine.others,
        step_tokens=figures["tokens"] or 0,
        predicted_step_seconds=figures["predicted"],
        step_seconds=figures["seconds"],
        predicted_last_step_seconds=figures["expected"],
        seen_time=timestamp(row.seen_at),
    )


def _queue(seen: QueueSeen) -> engines_pb2.TenantQueue:
    return engines_pb2.TenantQueue(
        model=seen.model,
        tenant=seen.tenant,
        others=seen.others,
        queued_jobs=seen.queue.queued,
        running_jobs=seen.queue.running,
        gpu_seconds=seen.queue.gpu_seconds,
    )


def _waiting(job: Job, ahead: Outlook) -> engines_pb2.WaitingVideo:
    return engines_pb2.WaitingVideo(
        operation=OPERATIONS + job.id,
        model=job.model,
        queue_position=ahead.queue_position,
        eta_seconds=ahead.eta_seconds or 0.0,
        eta_low_seconds=ahead.eta_low_seconds or 0.0,
        eta_high_seconds=ahead.eta_high_seconds or 0.0,
        notice=ahead.notice,
    )
