"""The media of a job: where they lie in the artifact store, and as files of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.tasks import MediaInfo, VideoSpec, media_of
from serving.artifacts import ArtifactStore


@dataclass(frozen=True)
class Stored:
    """A medium in the artifact store. ``info`` is None for a sound."""

    key: str
    info: MediaInfo | None


def infos(spec: VideoSpec, media: Mapping[str, Stored]) -> dict[str, MediaInfo]:
    """What is known of the media of a task, by the field that names them."""
    named = {field: media[name].info for field, name in media_of(spec.task).items()}
    return {field: info for field, info in named.items() if info is not None}


def media_info(info: Mapping[str, Any]) -> MediaInfo:
    """What `model.resolve` checks, from what the table keeps."""
    return MediaInfo(
        kind=info["kind"],
        width=info["width"],
        height=info["height"],
        frames=info["frames"],
        fps=info["fps"],
        has_audio=info["has_audio"],
    )


@contextmanager
def files(media: Mapping[str, Stored], artifacts: ArtifactStore, scratch: Path) -> Iterator[dict[str, Path]]:
    """Paths by name, to be read only; copies where the store is none of this machine.

    Raises:
        ArtifactError: one is gone or cannot be read.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        paths: dict[str, Path] = {}
        for i, (name, stored) in enumerate(media.items()):
            path = artifacts.local_path(stored.key)
            if path is None:
                path = Path(directory) / str(i)
                artifacts.copy_to(stored.key, path)
            paths[name] = path
        yield paths
