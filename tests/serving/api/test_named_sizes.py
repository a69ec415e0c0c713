"""Every named size of every ratio, by every entrance, on every family: served, and the file exactly as asked for."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from tests.fixtures.family_checkpoints import EVERY_MODEL, card_in
from tests.model.test_circles import LIMIT, disc, redness, roundness
from tests.serving.api.sizes_table import document, kind_of, named_sizes, spec_of
from tests.serving.gateway.http.samples import picture
from zoetrope.cluster.planning.gang_plan import preset_of
from zoetrope.model.network.costs import tokens_of
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.sizes import SIZES
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard, parse_request
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2, video_pb2_grpc
from zoetrope.serving.cli.generate_request import GenerateRequest, TaskMedia
from zoetrope.serving.cli.models import clip_size
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.grpc.health_service import HealthService
from zoetrope.serving.gateway.grpc.server import grpc_server
from zoetrope.serving.gateway.http.app import http_app
from zoetrope.serving.gateway.main import open_core
from zoetrope.serving.media import probe, read_clip
from zoetrope.serving.media.task_inputs import examine
from zoetrope.serving.stages.render import render_video

DATA = "data:image/png;base64," + base64.b64encode(picture(64, 48)).decode()
FRAMES = 5
FAMILY_OF_TASK = {"text_to_video": "t2v", "image_to_video": "i2v", "first_last_frame": "i2v"}


@asynccontextmanager
async def doors(card: ModelCard, directory: Path) -> AsyncIterator[tuple[Core, Any, httpx.AsyncClient]]:
    """A gateway in this process: what it works on, a gRPC stub and an HTTP client."""
    settings = Settings(model=(card.name,), data_dir=directory, max_queued=10_000)
    with open_core(settings, ServedModels([card])) as core:
        server = grpc_server(core, HealthService())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with (
                grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
                httpx.AsyncClient(transport=httpx.ASGITransport(http_app(core)), base_url="http://127.0.0.1") as http,
            ):
                yield core, video_pb2_grpc.VideoServiceStub(channel), http  # type: ignore[no-untyped-call]
        finally:
            await server.stop(None)


async def by_grpc(videos: Any, kind: str, size: str, ratio: str) -> str:
    request = video_pb2.CreateVideoRequest(size=size, ratio=ratio, frames=FRAMES)
    medium = media_pb2.Media(uri=DATA)
    match kind:
        case "text_to_video":
            request.text_to_video.prompt = "p"
        case "image_to_video":
            request.image_to_video.image.CopyFrom(medium)
        case "first_last_frame":
            request.first_last_frame.first_frame.CopyFrom(medium)
            request.first_last_frame.last_frame.CopyFrom(medium)
    operation = await videos.CreateVideo(request)
    return str(operation.name.removeprefix("operations/"))


async def by_replicate(http: httpx.AsyncClient, kind: str, size: str, ratio: str) -> str:
    given: dict[str, Any] = {"prompt": "p", "resolution": size, "aspect_ratio": ratio, "num_frames": FRAMES}
    if kind != "text_to_video":
        given["first_frame"] = DATA
    if kind == "first_last_frame":
        given["last_frame"] = DATA
    path = f"/v1/models/wan-video/wan-2.7-{FAMILY_OF_TASK[kind]}/predictions"
    return str(answer(await http.post(path, json={"input": given}))["id"])


async def by_dashscope(http: httpx.AsyncClient, kind: str, size: str, ratio: str) -> str:
    media = [] if kind == "text_to_video" else [{"type": "first_frame", "url": DATA}]
    media += [{"type": "last_frame", "url": DATA}] if kind == "first_last_frame" else []
    body = {
        "model": f"wan2.7-{FAMILY_OF_TASK[kind]}",
        "input": {"prompt": "p", "media": media},
        "parameters": {"resolution": size.upper(), "ratio": ratio, "duration": 2},
    }
    path = "/api/v1/services/aigc/video-generation/video-synthesis"
    found = answer(await http.post(path, json=body, headers={"X-DashScope-Async": "enable"}))
    return str(found["output"]["task_id"])


async def by_openai(http: httpx.AsyncClient, kind: str, size: str, ratio: str) -> str:
    """Its sizes are in pixels."""
    width, height = SIZES[size][ratio]
    body: dict[str, Any] = {"prompt": "p", "size": f"{width}x{height}", "num_frames": FRAMES}
    if kind != "text_to_video":
        body["input_reference"] = {"image_url": DATA}
    return str(answer(await http.post("/v1/videos", json=body))["id"])


def answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code in (200, 201, 202), response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("name", EVERY_MODEL)
async def test_every_entrance_serves_every_named_size(name: str, checkpoints: Path, tmp_path: Path) -> None:
    card = card_in(checkpoints, name)
    kind = kind_of(card)
    async with doors(card, tmp_path / "data") as (core, videos, http):
        entrances: dict[str, Callable[[str, str], Any]] = {
            "gRPC": lambda size, ratio: by_grpc(videos, kind, size, ratio),
            "Replicate": lambda size, ratio: by_replicate(http, kind, size, ratio),
            "DashScope": lambda size, ratio: by_dashscope(http, kind, size, ratio),
            "OpenAI": lambda size, ratio: by_openai(http, kind, size, ratio),
        }
        if kind == "first_last_frame":
            del entrances["OpenAI"]  # it has no such task
        for size, ratio in named_sizes():
            expected = spec_of(card, size, ratio)
            assert (expected.width, expected.height) == SIZES[size][ratio]
            for entrance, create in entrances.items():
                job = core.stores.jobs.get(await create(size, ratio), "")
                assert job is not None
                made = VideoSpec.from_dict(job.spec)
                assert sides(made) == sides(expected), f"{entrance} {size} {ratio}"
                assert job.warnings == made.warnings
                assert about_size(made) == about_size(expected)
            planned = clip_size(size, ratio)
            assert (*planned, *preset_of(card).denoised_size(*planned)) == sides(expected)
    photo = tmp_path / "photo.png"
    photo.write_bytes(picture(64, 48))
    for size, ratio in named_sizes():
        assert sides(typed(card, kind, photo, size, ratio)) == sides(spec_of(card, size, ratio)), f"CLI {size} {ratio}"


def about_size(spec: VideoSpec) -> list[str]:
    """The warnings but those of the length: an API that counts in seconds asks for another one."""
    return [warning for warning in spec.warnings if not warning.startswith("frames:")]


def sides(spec: VideoSpec) -> tuple[int, int, int, int]:
    return spec.width, spec.height, spec.native_width, spec.native_height


def typed(card: ModelCard, kind: str, photo: Path, size: str, ratio: str) -> VideoSpec:
    """As `zoetrope generate` understands its options."""
    media = TaskMedia(
        image=None if kind == "text_to_video" else photo, last_image=photo if kind == "first_last_frame" else None
    )
    order = GenerateRequest("p", Path("out.mp4"), size=size, ratio=ratio, media=media, frames=FRAMES)
    request = parse_request(order.request())
    return resolve(request, card, 7, examine(request.task))


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_the_planner_counts_the_tokens_that_are_denoised(name: str, checkpoints: Path) -> None:
    card = card_in(checkpoints, name)
    preset = preset_of(card)
    patch = card.size_multiple // card.spatial
    for size, ratio in named_sizes():
        spec = spec_of(card, size, ratio)
        _, t, h, w = spec.latent_shape
        assert h % patch == w % patch == 0
        planned = tokens_of(
            *preset.denoised_size(spec.width, spec.height), spec.model_frames, preset.vae, preset.config.patch_size
        )
        assert planned == t * (h // patch) * (w // patch)


def test_edits_are_made_at_720p_at_most(checkpoints: Path) -> None:
    card = card_in(checkpoints, "bernini-r")
    for size, ratio in named_sizes():
        request = parse_request(
            {"task": {"kind": "edit_video", "prompt": "p", "video": "v"}, "size": size, "ratio": ratio}
        )
        spec = resolve(request, card, 7)
        assert (spec.width, spec.height) == SIZES[size][ratio]
        assert spec.native_width * spec.native_height <= 1_280 * 720
        assert any("edited at" in warning for warning in spec.warnings) == (size == "1080p")
        native, asked = spec.native_width / spec.native_height, spec.width / spec.height
        assert abs(native / asked - 1) < 0.05, "little is cropped"


@pytest.mark.parametrize(
    ("name", "size", "ratio"),
    [
        ("wan2.7-27b", "480p", "1:1"),
        ("wan2.7-27b", "480p", "3:4"),
        ("wan2.7-27b", "720p", "16:9"),
        ("wan2.7-27b", "720p", "21:9"),
        ("wan2.7-27b", "1080p", "16:9"),
        ("wan2.7-27b", "1080p", "9:21"),
        ("wan2.2-t2v-a14b", "480p", "3:2"),
        ("wan2.2-t2v-a14b", "1080p", "9:16"),
        ("nano", "480p", "2:3"),
        ("nano", "720p", "16:9"),
    ],
)
def test_files_are_exactly_as_asked_and_circles_round(
    name: str, size: str, ratio: str, checkpoints: Path, tmp_path: Path
) -> None:
    spec = replace(spec_of(card_in(checkpoints, name), size, ratio), frames=1)
    path = tmp_path / "out.mp4"
    info = render_video(spec, iter([disc(spec.native_width, spec.native_height)[None]]), path)
    assert (info.width, info.height) == SIZES[size][ratio]
    assert (probe(path).width, probe(path).height) == SIZES[size][ratio]
    shown = read_clip(path, max_seconds=5.0).frames[0]
    assert math.isclose(roundness(np.where(redness(shown)[..., None] > 20, shown, 96)), 1, abs_tol=LIMIT)


def test_the_page_is_current(checkpoints: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "sizes.md"
    assert page.read_text() == document(checkpoints)
