"""The bytes of a snapshot: a safetensors file with a header of ours, followed by the SHA-256 of all of it.

The header is JSON under ``zoetrope.snapshot`` in the file's metadata. Without its last 32 bytes, any safetensors reader
can read the file. Tensors are written in place and in pieces, so that they are not copied and no piece holds up the
other threads of the process for long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import safetensors.torch
import torch

from zoetrope.cluster.protocol.messages import Owner, one_line
from zoetrope.model.denoising.resume import LATENTS, SegmentState
from zoetrope.model.denoising.samplers import schedule_of
from zoetrope.model.denoising.sampling import SamplerState
from zoetrope.model.request.specs import SegmentSpec

VERSION = 1
HEADER = "zoetrope.snapshot"
DIGEST_BYTES = 32
LENGTH_BYTES = 8  # of the length before a safetensors header
PIECE_BYTES = 4 << 20
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}


class BadSnapshot(Exception):
    """The segment cannot resume from these bytes; one line says why."""


class DamagedSnapshot(BadSnapshot):
    """The bytes are not what was written, so they are of no use to anyone."""


@dataclass(frozen=True)
class Fingerprint:
    """What a segment and its snapshot must agree on. The segment's id is not part of it, because each lease has a new
    one.

    Attributes:
        model: `model.catalog.weights_identity.weights_of`. scheduler: the class of the sampler. schedule: a digest of
            what decides the noise levels, such as the shift. adapters: their digests and strengths; "" for none.
    """

    model: str
    scheduler: str
    schedule: str
    latent_shape: tuple[int, int, int, int]
    steps: int
    guidance: float
    guidance_low: float | None
    seed: int
    kind: str
    adapters: str = ""  # snapshots of older releases lack it
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    step_mask: str = ""

    @classmethod
    def of(cls, model: str, spec: SegmentSpec, scheduler_config: dict[str, Any]) -> Fingerprint:
        config = schedule_of(spec, scheduler_config)
        settings = {key: value for key, value in config.items() if key != "_diffusers_version"}
        text = json.dumps(settings, sort_keys=True, default=str)
        return cls(
            model=model,
            scheduler=str(config.get("_class_name")),
            schedule=hashlib.sha256(text.encode()).hexdigest()[:16],
            latent_shape=spec.latent_shape,
            steps=spec.steps,
            guidance=spec.guidance,
            guidance_low=spec.guidance_low,
            seed=spec.seed,
            kind=spec.kind,
            adapters=" ".join(map(str, spec.loras)),
            guidance_start=spec.guidance_start,
            guidance_end=spec.guidance_end,
            step_mask=spec.step_mask,
        )

    def difference(self, other: Fingerprint) -> str | None:
        """Describe the first field in which the other differs: ``field is ..., expected ...``; None if there is
        none."""
        for name in (f.name for f in fields(self)):
            if (found := getattr(other, name)) != (expected := getattr(self, name)):
                return f"{name} is {found!r}, expected {expected!r}"
        return None


@dataclass(frozen=True)
class Snapshot:
    """A segment after a step. After the last step its latents are the result."""

    owner: Owner
    fingerprint: Fingerprint
    state: SegmentState

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def finished(self) -> bool:
        return self.step == self.fingerprint.steps


def encode(snapshot: Snapshot) -> Iterator[bytes | memoryview]:
    """Yield the bytes in pieces. Tensors must be on the CPU and must not change meanwhile.

    Raises:
        ValueError: a tensor is of a type that a snapshot cannot hold.
    """
    sampler = snapshot.state.sampler
    tensors = {name: tensor.contiguous() for name, tensor in snapshot.state.tensors().items()}
    described = {
        "version": VERSION,
        "owner": asdict(snapshot.owner),
        "fingerprint": asdict(snapshot.fingerprint),
        "scheduler": sampler.scheduler,
        "step": sampler.step,
        "scalars": dict(sampler.scalars),
    }
    header: dict[str, Any] = {"__metadata__": {HEADER: json.dumps(described)}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}, a snapshot holds one of {', '.join(map(str, DTYPES))}")
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    digest = hashlib.sha256()
    front = len(text).to_bytes(LENGTH_BYTES, "little") + text
    digest.update(front)
    yield front
    for tensor in tensors.values():
        data = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            digest.update(piece)
            yield piece
    yield digest.digest()


def decode(data: bytes, expected: Fingerprint | None = None, owner: Owner | None = None) -> Snapshot:
    """Decode what `encode` wrote, with tensors on the CPU. `model.denoising.resume.sampler_of` checks whether the state
    fits the segment.

    Args:
        expected: of the segment to resume; None: any.
        owner: of the segment to resume; a snapshot of an older lease of the same job is accepted. None: any.

    Raises:
        DamagedSnapshot: something was cut off, added or changed.
        BadSnapshot: the bytes are whole, but of another version, another segment or other settings.
    """
    if len(data) <= DIGEST_BYTES + LENGTH_BYTES:
        raise DamagedSnapshot(f"{len(data)} bytes are too few")
    view = memoryview(data)
    if hashlib.sha256(view[:-DIGEST_BYTES]).digest() != view[-DIGEST_BYTES:]:
        raise DamagedSnapshot(f"the checksum of {len(data)} bytes does not agree: truncated or changed")
    try:
        return _read(data, expected, owner)
    except BadSnapshot:
        raise
    except Exception as error:  # a header may be any JSON, which can be wrong in too many ways to list
        raise BadSnapshot(f"malformed: {one_line(error)}") from error


def _read(data: bytes, expected: Fingerprint | None, owner: Owner | None) -> Snapshot:
    size = int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(json.loads(data[LENGTH_BYTES : LENGTH_BYTES + size])["__metadata__"][HEADER])
    if (version := header["version"]) != VERSION:
        raise BadSnapshot(f"format version {version}, this is version {VERSION}")
    plain, whose, step = header["fingerprint"], Owner(**header["owner"]), header["step"]
    scheduler, scalars = str(header["scheduler"]), dict(header["scalars"])
    found = Fingerprint(**{**plain, "latent_shape": tuple(plain["latent_shape"])})
    for number in (whose.index, whose.epoch, step, *scalars.values()):
        if type(number) is not int:
            raise BadSnapshot(f"malformed: {number!r} must be a whole number")
    if owner is not None and (whose.job, whose.index) != (owner.job, owner.index):
        raise BadSnapshot(f"of segment {whose.index} of job {whose.job}, not {owner.index} of {owner.job}")
    if owner is not None and whose.epoch > owner.epoch:
        raise BadSnapshot(f"of lease epoch {whose.epoch}, later than {owner.epoch}")
    if expected is not None and (difference := expected.difference(found)) is not None:
        raise BadSnapshot(difference)
    tensors = safetensors.torch.load(data[:-DIGEST_BYTES])
    state = SegmentState(tensors[LATENTS], SamplerState(scheduler, step, scalars, {}))
    return Snapshot(whose, found, state.with_tensors(tensors))
