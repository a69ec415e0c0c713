# ruff: noqa: N802 (the methods are named as in the proto)
"""zoetrope.video.v1.AccountService: every limit that applies to the caller."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.duration_pb2 import Duration

from zoetrope.serving.api.zoetrope.video.v1 import account_pb2
from zoetrope.serving.gateway.auth.callers import caller
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.jobs.admission import gpu_share
from zoetrope.serving.media.formats import MEDIA_TYPES


class AccountService:
    """The servicer."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def GetAccount(self, request: account_pb2.GetAccountRequest, context: Any) -> account_pb2.Account:
        who, settings = caller(), self._core.settings
        usage = self._core.stores.jobs.usage
        used = await asyncio.to_thread(usage, who.owner, who.key_id, settings.max_queued)
        names = [card.name for card in self._core.models.allowed(who.limits.models) or ()]
        gpu_seconds = await asyncio.to_thread(self._core.stores.jobs.gpu_seconds, who.owner, names)
        most_gpu, tenants = settings.max_queued_gpu_seconds, who.key_id is not None
        limits = who.limits
        most = settings.max_result_bytes if limits.result_bytes is None else limits.result_bytes
        return account_pb2.Account(
            tenant=who.owner,
            key_name=who.key_name,
            requests_per_second=limits.requests_per_second,
            burst=limits.burst,
            concurrent_jobs=limits.concurrent_jobs,
            queued_seconds=limits.queued_seconds,
            models=limits.models or (),
            max_priority=limits.max_priority,
            concurrent_jobs_used=used.live_jobs,
            queued_seconds_used=used.live_seconds,
            max_queued=settings.max_queued,
            default_retention=_duration(settings.retention_seconds),
            max_retention=_duration(settings.max_retention_seconds),
            max_upload_bytes=settings.max_upload_bytes,
            media_retention=_duration(settings.media_retention_seconds),
            max_media_bytes=settings.max_media_bytes,
            media_formats=MEDIA_TYPES,
            queued_jobs=used.queue_share,
            queued_jobs_used=used.queued_jobs,
            max_result_bytes=most,
            result_bytes_used=used.result_bytes,
            max_queued_gpu_seconds=most_gpu,
            queued_gpu_seconds={
                name: gpu_share(most_gpu, total, own) if tenants else most_gpu
                for name, (total, own) in gpu_seconds.items()
            },
            queued_gpu_seconds_used={name: own for name, (_, own) in gpu_seconds.items()},
        )

    async def GetWebhookSecret(
        self, request: account_pb2.GetWebhookSecretRequest, context: Any
    ) -> account_pb2.GetWebhookSecretResponse:
        secret = await asyncio.to_thread(self._core.stores.outbox.secret, caller().owner)
        return account_pb2.GetWebhookSecretResponse(secret=secret)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1_000))
    return duration
