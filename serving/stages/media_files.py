"""The media of a job: their keys in the artifact store, and local files to read them from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import MediaInfo, media_of
from zoetrope.serving.storage.store import ArtifactStore


@dataclass(frozen=True)
class StoredMedia:
    """A medium in the artifact store. ``info`` is None for a sound; ``sha256`` is that of the file, if it is known."""

    key: str
    info: MediaInfo | None
    sha256: str | None = None


def infos(spec: VideoSpec, media: Mapping[str, StoredMedia]) -> dict[str, MediaInfo]:
    """Return the information about a task's media, by the field that names each."""
    named = {field: media[name].info for field, name in media_of(spec.task).items()}
    return {field: info for field, info in named.items() if info is not None}


@contextmanager
def files(media: Mapping[str, StoredMedia], artifacts: ArtifactStore, scratch: Path) -> Iterator[dict[str, Path]]:
    """Yield local paths by name, read-only. Media in a remote store are copied to ``scratch``.

    Raises:
        ArtifactError: a medium is gone or cannot be read.
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
