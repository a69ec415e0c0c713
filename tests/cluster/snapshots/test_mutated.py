"""Whatever lies where snapshots are kept, a segment ends as if nothing had interrupted it: it goes on from a snapshot
that fits, from the one before it, or from its first step. Checksums are made anew after each change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.random_checkpoints import write_t2v
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.snapshots.format import (
    DIGEST_BYTES,
    HEADER,
    LENGTH_BYTES,
    BadSnapshot,
    Fingerprint,
    Snapshot,
    decode,
    encode,
)
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_denoiser
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.resume import resume, sampler_of, state_of
from zoetrope.model.request.specs import SegmentSpec

OWNER = Owner("vid_mutated", 0, 3)
HEIR = replace(OWNER, epoch=4)
SPEC = SegmentSpec("a", (16, 2, 4, 4), 6, 3.0, 11)
BEFORE, NEWEST = 3, 4  # the steps of the two that are kept
TENSORS = ("latents", "last_sample", "model_outputs.0", "model_outputs.1")
NUMBERS = (-1, 0, 1, 2, 3, 7, 10**12, True, 2.0, 2.5, "2", None, [2], {"2": 2}, float("nan"))


@dataclass
class Parts:
    """A snapshot taken apart: what its header says, and its tensors."""

    header: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def whole(self) -> bytes:
        return signed(safetensors.torch.save(self.tensors, {HEADER: json.dumps(self.header)}))


def signed(front: bytes) -> bytes:
    return front + hashlib.sha256(front).digest()


def apart(data: bytes) -> Parts:
    front = data[:-DIGEST_BYTES]
    size = int.from_bytes(front[:LENGTH_BYTES], "little")
    outer = json.loads(front[LENGTH_BYTES : LENGTH_BYTES + size])
    return Parts(json.loads(outer["__metadata__"][HEADER]), safetensors.torch.load(front))


@dataclass
class Run:
    """A segment that was made without interruption, and its snapshots by step."""

    denoiser: Denoiser
    conditions: Conditions
    taken: dict[int, bytes]
    result: torch.Tensor

    def segment(self) -> Segment:
        return self.denoiser.start(replace(SPEC, id="b"), self.conditions)

    def found(self, folder: Path, newest: bytes, before: bytes | None) -> tuple[int, int]:
        """Go on from what is kept, as an engine does; the step, and how many were passed over."""
        shelf = folder / "snapshots" / OWNER.job / f"{OWNER.index:04d}"
        shelf.mkdir(parents=True, exist_ok=True)
        for step, data in ((BEFORE, before), (NEWEST, newest)):
            (shelf / f"{OWNER.epoch:010d}-{step:06d}").write_bytes(data if data is not None else self.taken[step])
        store, config = SnapshotStore(str(folder)), self.denoiser.scheduler_config
        expected = Fingerprint.of("tiny", SPEC, config)
        data = store.latest_bytes(HEIR, expected, partial(sampler_of, scheduler_config=config, spec=SPEC, lead=0))
        segment = self.segment()
        if data is not None:
            segment = resume(self.denoiser, segment, decode(data, expected, HEIR).state)
        step = segment.sampler.step
        while not segment.sampler.done:
            self.denoiser.step([segment])
        assert torch.equal(segment.result(), self.result), f"from step {step}"
        return step, store.passed_over


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("tiny-wan")
    write_t2v(directory)
    denoiser = load_denoiser(find_model(str(directory)), torch.device("cpu"))
    positive, negative = torch.randn(2, 4, TEXT_DIM, generator=torch.Generator().manual_seed(5))
    conditions = Conditions(positive, negative)
    segment, taken = denoiser.start(SPEC, conditions), {}
    while not segment.sampler.done:
        denoiser.step([segment])
        kept = Snapshot(OWNER, Fingerprint.of("tiny", SPEC, denoiser.scheduler_config), state_of(segment))
        taken[segment.sampler.step] = b"".join(encode(kept))
    return Run(denoiser, conditions, taken, segment.result())


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


Change = Callable[[Parts], None]


def poisoned(name: str, position: int, value: float) -> Change:
    def change(parts: Parts) -> None:
        parts.tensors[name].view(-1)[position % parts.tensors[name].numel()] = value

    return change


def recast(name: str, dtype: torch.dtype) -> Change:
    def change(parts: Parts) -> None:
        parts.tensors[name] = parts.tensors[name].to(dtype)

    return change


def reshaped(names: tuple[str, ...], dimension: int, length: int) -> Change:
    """Cut or repeated along a dimension, from the last: 1 and 2 are those of the picture, 3 is time, 4 the channels."""

    def change(parts: Parts) -> None:
        for name in names:
            tensor = parts.tensors[name]
            wanted = [i % tensor.shape[-dimension] for i in range(length)]
            parts.tensors[name] = tensor.index_select(-dimension, torch.tensor(wanted, dtype=torch.long))

    return change


def flattened(name: str) -> Change:
    def change(parts: Parts) -> None:
        parts.tensors[name] = parts.tensors[name].reshape(-1)

    return change


def without(name: str) -> Change:
    def change(parts: Parts) -> None:
        del parts.tensors[name]

    return change


def renamed(name: str, other: str) -> Change:
    def change(parts: Parts) -> None:
        parts.tensors[other] = parts.tensors.pop(name)

    return change


def written(path: tuple[str, ...], value: Any) -> Change:
    """Another value somewhere in the header."""

    def change(parts: Parts) -> None:
        place = parts.header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def left_out(path: tuple[str, ...]) -> Change:
    def change(parts: Parts) -> None:
        place = parts.header
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


FINGERPRINT = tuple(Fingerprint.__dataclass_fields__)
DEFAULTS = {field.name: field.default for field in fields(Fingerprint) if field.default is not MISSING}
PLACES = (
    ("version",),
    ("scheduler",),
    ("step",),
    ("scalars",),
    ("scalars", "lower_order_nums"),
    ("scalars", "this_order"),
    ("owner",),
    *(("owner", name) for name in ("job", "index", "epoch")),
    ("fingerprint",),
    *(("fingerprint", name) for name in FINGERPRINT),
)
names = st.sampled_from(TENSORS)
# None of these is what a segment has after four steps, save where a number is the one that was there.
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(poisoned, names, st.integers(0, 10**6), st.sampled_from([float("nan"), float("inf"), -float("inf")])),
    st.builds(recast, names, st.sampled_from([torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.bool])),
    st.builds(
        reshaped,
        st.one_of(st.just(TENSORS), st.tuples(names)),
        st.sampled_from([1, 2, 3, 4]),
        st.sampled_from([0, 1, 3, 5]),
    ),
    st.builds(flattened, names),
    st.builds(without, names),
    st.builds(renamed, names, st.sampled_from(["model_outputs.2", "noise", "", "latents "])),
    st.builds(written, st.sampled_from(PLACES), st.sampled_from(NUMBERS)),
    st.builds(written, st.sampled_from([("scalars", "x"), ("fingerprint", "x"), ("owner", "x")]), st.just(1)),
    st.builds(left_out, st.sampled_from(PLACES)),
)


def changed(data: bytes, changes: list[Change]) -> bytes:
    parts = deepcopy(apart(data))
    for change in changes:
        try:
            change(parts)
        except Exception:
            continue  # an earlier change took away what this one is about
    return parts.whole()


def filled(header: dict[str, Any]) -> dict[str, Any]:
    found = header.get("fingerprint")
    return {**header, "fingerprint": {**DEFAULTS, **found}} if isinstance(found, dict) else header


def same(data: bytes, other: bytes) -> bool:
    """Whether the two say the same to a reader that takes 3 for 3.0, and what older releases lack for its default."""
    first, second = apart(data), apart(other)
    tensors = (safetensors.torch.save(parts.tensors) for parts in (first, second))
    return filled(first.header) == filled(second.header) and next(tensors) == next(tensors)


NAMED = {
    "a tensor missing": without("last_sample"),
    "no latents": without("latents"),
    "a tensor more": renamed("model_outputs.0", "model_outputs.2"),
    "another shape": reshaped(("last_sample",), 1, 3),
    "a frame more": reshaped(TENSORS, 3, 3),
    "float64": recast("latents", torch.float64),
    "bfloat16": recast("model_outputs.1", torch.bfloat16),
    "nan": poisoned("latents", 7, float("nan")),
    "infinity": poisoned("model_outputs.0", 9, -float("inf")),
    "another order": written(("scalars", "this_order"), 1),
    "a counter more": written(("scalars", "corrections"), 0),
    "a counter less": left_out(("scalars", "this_order")),
    "another scheduler's state": written(("scheduler",), "DPMSolverMultistepScheduler"),
    "another scheduler": written(("fingerprint", "scheduler"), "DPMSolverMultistepScheduler"),
    "another shift": written(("fingerprint", "schedule"), "0123456789abcdef"),
    "another model": written(("fingerprint", "model"), "nano"),
    "another seed": written(("fingerprint", "seed"), 12),
    "more steps": written(("fingerprint", "steps"), 7),
    "another step": written(("step",), 5),
    "another version": written(("version",), 2),
    "another job": written(("owner", "job"), "vid_other"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_passed_over(run: Run, shelf: Path, name: str) -> None:
    assert run.found(shelf, changed(run.taken[NEWEST], [NAMED[name]]), None) == (BEFORE, 1)


FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@given(changes=st.lists(CHANGES, min_size=1, max_size=3))
@FEW
def test_one_that_does_not_fit_is_passed_over_for_the_one_before(run: Run, shelf: Path, changes: list[Change]) -> None:
    data = changed(run.taken[NEWEST], changes)
    step, passed_over = run.found(shelf, data, None)
    assert (step, passed_over) == (BEFORE, 1) or ((step, passed_over) == (NEWEST, 0) and same(data, run.taken[NEWEST]))


@given(changes=st.lists(CHANGES, min_size=1, max_size=2), others=st.lists(CHANGES, min_size=1, max_size=2))
@FEW
def test_without_one_that_fits_it_starts_again(
    run: Run, shelf: Path, changes: list[Change], others: list[Change]
) -> None:
    data, before = changed(run.taken[NEWEST], changes), changed(run.taken[BEFORE], others)
    step, passed_over = run.found(shelf, data, before)
    kept = [NEWEST] * same(data, run.taken[NEWEST]) + [BEFORE] * same(before, run.taken[BEFORE])
    assert step in (0, *kept)
    assert step > 0 or passed_over == 2


@given(position=st.integers(0, 10**6), byte=st.integers(0, 255), length=st.none() | st.integers(0, 2**64 - 1))
@FEW
def test_any_byte_of_the_header_may_be_another(
    run: Run, shelf: Path, position: int, byte: int, length: int | None
) -> None:
    front = bytearray(run.taken[NEWEST][:-DIGEST_BYTES])
    size = int.from_bytes(front[:LENGTH_BYTES], "little")
    front[position % (LENGTH_BYTES + size)] = byte
    if length is not None:
        front[:LENGTH_BYTES] = length.to_bytes(LENGTH_BYTES, "little")
    assert run.found(shelf, signed(bytes(front)), None) in ((BEFORE, 1), (NEWEST, 0))


@given(st.binary(max_size=400), st.booleans())
@FEW
def test_any_bytes_may_lie_there(run: Run, shelf: Path, data: bytes, sign: bool) -> None:
    assert run.found(shelf, signed(data) if sign else data, None) == (BEFORE, 1)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (b"[" * 100_000, "deep"),
        (json.dumps({"__metadata__": {HEADER: "[" * 100_000}}).encode(), "deep inside"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "as deep as it can be read"),
        (b"null", "nothing"),
        (b"9" * 10_000, "a number that is too long"),
        (b"\xff\xfe", "no text"),
    ],
)
def test_headers_that_break_readers(header: bytes, what: str) -> None:
    with pytest.raises(BadSnapshot, match="malformed: ") as caught:
        decode(signed(len(header).to_bytes(LENGTH_BYTES, "little") + header))
    assert len(str(caught.value)) < 400, what


@pytest.mark.parametrize("step", [NEWEST, SPEC.steps])
def test_one_beyond_the_last_step_is_passed_over(run: Run, shelf: Path, step: int) -> None:
    """Its spec is right but for the number of steps, as after a change of the job's."""
    parts = apart(run.taken[step])
    parts.header["step"] = SPEC.steps + 1
    store = SnapshotStore(str(shelf))
    store.discard(OWNER.job)
    place = shelf / "snapshots" / OWNER.job / "0000" / f"{OWNER.epoch:010d}-{SPEC.steps + 1:06d}"
    place.parent.mkdir(parents=True)
    place.write_bytes(parts.whole())
    assert run.found(shelf, run.taken[NEWEST], None) == (NEWEST, 1)
    store.discard(OWNER.job)
