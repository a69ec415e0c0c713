"""Finished latents on their way to a decoder: in Ray's object store, or spilled to the artifact store. Needs no
torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import ray

from zoetrope.serving.storage.store import ArtifactStore

Array: TypeAlias = npt.NDArray[np.float32]  # ``[C, T, H, W]``
MIME_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class SpilledLatents:
    """Latents in the artifact store, under this key."""

    key: str


Latents: TypeAlias = "ray.ObjectRef | SpilledLatents"  # type: ignore[type-arg]


def spill(latents: Array, key: str, artifacts: ArtifactStore) -> SpilledLatents:
    """Store latents under a new key; the same bytes again are no error.

    Raises:
        ArtifactError: the store cannot take them.
    """
    file = io.BytesIO()
    np.save(file, latents, allow_pickle=False)
    artifacts.put_bytes(key, file.getvalue(), MIME_TYPE)
    return SpilledLatents(key)


def gather(latents: Sequence[Latents], artifacts: ArtifactStore) -> list[Array]:
    """Return latents wherever they are, each as a copy that may be written to.

    Raises:
        ArtifactError: spilled ones cannot be read.
        RayError: the process that owned others has died.
    """
    return [
        np.array(_spilled(one.key, artifacts) if isinstance(one, SpilledLatents) else ray.get(one)) for one in latents
    ]


def _spilled(key: str, artifacts: ArtifactStore) -> Array:
    found: Array = np.load(io.BytesIO(b"".join(artifacts.read(key))), allow_pickle=False)
    return found
