"""The asynchronous client from end to end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.gateway.harness import MODEL, GatewayProcess, Service, running_service
from zoetrope.serving.client import AsyncVideoClient, ClientError, OperationStatus
from zoetrope.serving.jobs.job import Preview, Stage, State

BYTES = random.Random(0).randbytes(2_500_000)


async def reached(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """As `until`, with the loop running on."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_job_from_end_to_end(service: Service, tmp_path: Path) -> None:
    async with AsyncVideoClient(service.target) as client:
        assert (await client.models())[0].name == MODEL
        name = await client.create(prompt="a red circle", steps=4, labels={"a": "b"}, request_id="once")
        assert await client.create(prompt="a red circle", steps=4, labels={"a": "b"}, request_id="once") == name
        seen: list[OperationStatus] = []

        async def follow() -> None:
            async for status in client.watch(name, previews=True):
                seen.append(status)

        following = asyncio.create_task(follow())
        waiting = asyncio.create_task(client.wait(name))
        await reached(lambda: seen)
        job = service.claim(name)
        service.progress(job, Stage.DENOISING, 2)
        await reached(lambda: seen[-1].step == 2)
        key = f"jobs/{job.id}/1/preview"
        service.artifacts.put_bytes(key, b"picture", "image/webp")
        preview = Preview(key, "image/webp", 8, 6, 7, step=2)
        assert service.store.put_preview(job.id, job.lease_epoch, preview)[0]
        await reached(lambda: seen[-1].preview is not None)
        shown = seen[-1].preview
        assert shown is not None
        assert (shown.data, shown.mime_type) == (b"picture", "image/webp")
        assert (shown.width, shown.height, shown.step) == (8, 6, 2)
        assert not waiting.done()
        service.progress(job, Stage.DENOISING, 3)
        await reached(lambda: seen[-1].step == 3)
        service.succeed(job, BYTES, tmp_path)
        await following
        assert (await waiting).state == "succeeded"
        assert [status.done for status in seen] == [False] * (len(seen) - 1) + [True]
        assert sum(status.preview is not None for status in seen) == 1

        progress: list[tuple[int, int]] = []
        out = tmp_path / "out.mp4"
        await client.download(name, out, on_progress=lambda have, total: progress.append((have, total)))
        assert out.read_bytes() == BYTES
        assert progress[-1] == (len(BYTES), len(BYTES))
        assert b"".join([part async for part in client.read(name, 10, 2_000_000)]) == BYTES[10:2_000_010]
        assert [event.to_state for event in await client.events(name)] == ["queued", "running", "succeeded"]
        assert [status.name async for status in client.iterate("labels.a=b")] == [name]
        assert [status.name for status in (await client.list(filter="done=true", page_size=1)).operations] == [name]
        assert (await client.update(name, labels={"c": "d"})).labels == {"c": "d"}
        assert (await client.account()).max_priority == 9
        assert (await client.webhook_secret()).startswith("whsec_")
        assert await client.replay_webhooks(name) == 0
        await client.delete(name)
        with pytest.raises(ClientError) as caught:
            await client.get(name)
        assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "UNKNOWN_OPERATION")


async def test_batch_cancel_and_errors(service: Service) -> None:
    async with AsyncVideoClient(service.target) as client:
        names = await client.create_batch([{"prompt": "one"}, {"prompt": "two"}])
        await asyncio.gather(*(client.cancel(name) for name in names))
        assert [(await client.wait(name)).state for name in names] == ["cancelled"] * 2
        with pytest.raises(ClientError) as caught:
            await client.create(prompt="", steps=0)
        assert {v.field for v in caught.value.violations} == {"text_to_video.prompt", "steps"}
        with pytest.raises(ClientError, match="is not a known operation"):
            async for _ in client.watch("operations/vid_none"):
                raise AssertionError
        with pytest.raises(ClientError) as caught:
            await client.extend(names[0], "on")
        assert caught.value.code == "FAILED_PRECONDITION"


async def test_a_call_that_is_cancelled_ends(service: Service) -> None:
    async with AsyncVideoClient(service.target) as client:
        name = await client.create(prompt="a")
        waiting = asyncio.create_task(client.wait(name))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await client.wait(name, timeout_seconds=0.1)).state == "queued"


async def test_media_and_a_restart(tmp_path: Path) -> None:
    picture = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (1_700, 1_800, 3), np.uint8)
    Image.fromarray(pixels).save(picture, compress_level=0)
    with running_service(tmp_path) as service:
        async with AsyncVideoClient(service.target) as client:
            sent: list[int] = []

            def progress(have: int, total: int) -> None:
                sent.append(have)
                if len(sent) == 12:
                    service.gateway.kill()
                    service.gateway = GatewayProcess(service.settings)

            file = await client.upload(picture, on_progress=progress)
            assert file.ready
            assert file.size_bytes == picture.stat().st_size == sent[-1]
            assert len(sent) > 12
            assert [m.name for m in (await client.list_media()).media] == [file.name]
            assert await client.get_media(file.name) == file
            await client.delete_media(file.name)
            assert (await client.list_media()).media == ()

            name = await client.create(prompt="a", steps=9)
            steps: list[int] = []

            async def follow() -> None:
                async for status in client.watch(name):
                    steps.append(status.step)

            following = asyncio.create_task(follow())
            job = service.claim(name)
            service.progress(job, Stage.DENOISING, 3)
            await reached(lambda: steps and steps[-1] == 3)
            service.gateway.kill()
            creating = asyncio.create_task(client.create(prompt="while it is away"))
            await asyncio.sleep(0)
            service.gateway = GatewayProcess(service.settings)
            service.store.finish(job.id, job.lease_epoch, State.FAILED, error_code="INTERNAL", error_message="x")
            await following
            assert steps == sorted(steps)
            assert (await client.get(await creating)).state == "queued"
