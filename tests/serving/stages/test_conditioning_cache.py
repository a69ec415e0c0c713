"""A conditioner that keeps what it has computed gives the same conditions, bit for bit, and computes less."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import (
    EditVideo,
    FirstLastFrame,
    ImageToVideo,
    MediaInfo,
    ReferenceToVideo,
    Task,
    TextToVideo,
    VideoRequest,
    media_of,
)
from zoetrope.model.runtime.byte_cache import CacheFigures
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.media import VideoWriter
from zoetrope.serving.stages.conditioner import ConditionerReplica
from zoetrope.serving.stages.conditioning_cache import conditions_size, media_key
from zoetrope.serving.stages.media_files import StoredMedia
from zoetrope.serving.storage.store import open_artifacts

CARD = find_model("nano")
SIDE = 64
PICTURE, CLIP = MediaInfo("image", SIDE, SIDE), MediaInfo("clip", SIDE, SIDE, frames=24, fps=12.0)
TASKS: list[Task] = [
    TextToVideo(prompt="a red circle"),
    ImageToVideo(prompt="a red circle", image="p1"),
    FirstLastFrame(prompt="a red circle", first_frame="p1", last_frame="p2"),
    ReferenceToVideo(prompt="Image 1", references=("p1", "p2")),
    EditVideo(prompt="make it blue", video="c1"),
]


def spec_of(task: Task, **changes: Any) -> VideoSpec:
    infos = {field: CLIP if field == "video" else PICTURE for field in media_of(task)}
    return resolve(VideoRequest(task=task, steps=4, seed=7, **changes), CARD, 0, infos)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conditioner")


@pytest.fixture(scope="module")
def media(folder: Path) -> dict[str, StoredMedia]:
    """Two pictures, the first one twice, and a clip."""
    rng, artifacts = np.random.default_rng(0), open_artifacts(str(folder / "artifacts"))
    found: dict[str, StoredMedia] = {}
    for name in ("p1", "p2"):
        path = folder / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        found[name] = StoredMedia(artifacts.put_file(f"media/{name}", path, "image/png").key, PICTURE, digest(path))
    found["again"] = replace(found["p1"])
    with VideoWriter(folder / "c1.mkv", SIDE, SIDE, 12, "mkv", {}) as writer:
        writer.write(rng.integers(0, 256, (24, SIDE, SIDE, 3), dtype=np.uint8))
    clip = artifacts.put_file("media/c1", folder / "c1.mkv", "video/x-matroska")
    found["c1"] = StoredMedia(clip.key, CLIP, digest(folder / "c1.mkv"))
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def conditioner(folder: Path, room: int) -> ConditionerReplica:
    settings = Settings(data_dir=folder, unsafe_media=True, condition_cache_bytes=room)
    return ConditionerReplica(ServedModels([CARD]), settings)


@pytest.fixture(scope="module")
def keeping(folder: Path) -> ConditionerReplica:
    return conditioner(folder, 64 << 20)


@pytest.fixture(scope="module")
def forgetting(folder: Path) -> ConditionerReplica:
    return conditioner(folder, 0)


def conditions(stage: ConditionerReplica, spec: VideoSpec, media: dict[str, StoredMedia]) -> Conditions:
    named = {name: stored for name, stored in media.items() if name in str(spec.task)}
    return stage._condition(spec, named, 0, None)[0]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return all(equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    return bool(a == b)


def media_figures(stage: ConditionerReplica) -> CacheFigures:
    return stage._cache.figures["media"]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_conditions_are_equal_with_and_without(
    keeping: ConditionerReplica, forgetting: ConditionerReplica, media: dict[str, StoredMedia], task: Task
) -> None:
    spec = spec_of(task)
    first, again, without = (conditions(stage, spec, media) for stage in (keeping, keeping, forgetting))
    assert equal(first, without) and equal(again, without)
    assert forgetting._cache.figures["prompts"].bytes == media_figures(forgetting).bytes == 0


def test_the_next_job_with_the_same_media_encodes_none(folder: Path, media: dict[str, StoredMedia]) -> None:
    stage = conditioner(folder, 64 << 20)
    conditions(stage, spec_of(ImageToVideo(prompt="a red circle", image="p1")), media)

    def fail(*_: object) -> None:
        pytest.fail("the media are encoded again")

    stage._inputs = fail  # type: ignore[method-assign, assignment]
    other = ImageToVideo(prompt="a blue square", image="again")
    found = conditions(stage, replace(spec_of(other), seed=9, guidance=2.0, steps=8), media)
    assert media_figures(stage).hits == 1 and found.known is not None
    assert stage._cache.figures["prompts"].misses == 3, "two prompts and the negative one"


def test_what_the_conditions_depend_on_is_in_the_key(media: dict[str, StoredMedia]) -> None:
    spec = spec_of(ImageToVideo(prompt="a", image="p1"))
    key = media_key(spec, media, 0)
    assert key == media_key(replace(spec, seed=1, steps=9, guidance=1.0), media, 0)
    assert key == media_key(spec_of(ImageToVideo(prompt="b", negative_prompt="c", image="again")), media, 0)
    others = [
        spec_of(ImageToVideo(prompt="a", image="p2")),
        spec_of(ImageToVideo(prompt="a", image="p1", loop=True)),
        spec_of(FirstLastFrame(prompt="a", first_frame="p1", last_frame="p1")),
        replace(spec, fit="contain"),
        replace(spec, native_width=spec.native_width + 16),
        replace(spec, model_frames=spec.model_frames + 4),
    ]
    assert len({key, media_key(spec, media, 1), *(media_key(other, media, 0) for other in others)}) == 2 + len(others)


def test_without_media_or_their_content_there_is_no_key(media: dict[str, StoredMedia]) -> None:
    assert media_key(spec_of(TextToVideo(prompt="a")), {}, 0) is None
    unknown = {**media, "p1": replace(media["p1"], sha256=None)}
    assert media_key(spec_of(ImageToVideo(prompt="a", image="p1")), unknown, 0) is None


def test_all_tensors_count(keeping: ConditionerReplica, media: dict[str, StoredMedia]) -> None:
    found = conditions(keeping, spec_of(TASKS[3]), media)
    assert found.negative is not None
    tensors = [found.positive, found.negative, *(source.latents for source in found.sources)]
    assert conditions_size(found) == sum(4 * tensor.numel() for tensor in tensors)
