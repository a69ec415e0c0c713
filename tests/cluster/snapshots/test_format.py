"""What was written is read to the bit; what was not is never taken for a snapshot."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.snapshots.samples import OWNER, STEPS, UNIPC, equal, fingerprint, segment_spec, snapshot
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.snapshots.format import DIGEST_BYTES, BadSnapshot, DamagedSnapshot, Fingerprint, decode, encode
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.request.load_options import LoadOptions

DATA = b"".join(encode(snapshot(5)))


@pytest.mark.parametrize("step", [0, 1, 2, 5, STEPS])
def test_what_was_written_is_read(step: int) -> None:
    written = snapshot(step)
    data = b"".join(encode(written))
    found = decode(data, fingerprint(), OWNER)
    assert equal(found, written)
    assert found.finished == (step == STEPS)


def test_the_noise_it_started_from_is_not_in_it() -> None:
    numbers = sum(tensor.numel() for tensor in snapshot(5).state.tensors().values())
    assert numbers == 4 * 2 * 1 * 2 * 3  # the latents, two outputs and the last sample of UniPC
    after_the_end = sum(tensor.numel() for tensor in snapshot(STEPS).state.tensors().values())
    assert after_the_end == 2 * 1 * 2 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_any_safetensors_reader_reads_all_but_the_checksum(dtype: torch.dtype) -> None:
    written = snapshot(5)
    tensors = {name: tensor.to(dtype).transpose(-1, -2) for name, tensor in written.state.tensors().items()}
    data = b"".join(encode(replace(written, state=written.state.with_tensors(tensors))))
    theirs = safetensors.torch.load(data[:-DIGEST_BYTES])
    assert theirs.keys() == tensors.keys()
    assert all(torch.equal(theirs[name], tensors[name]) for name in tensors)


def test_large_tensors_are_written_in_pieces() -> None:
    written = snapshot(5)
    large = {name: torch.arange(3_000_000.0) for name in written.state.tensors()}
    pieces = list(encode(replace(written, state=written.state.with_tensors(large))))
    assert max(len(piece) for piece in pieces) <= 4 << 20
    assert torch.equal(decode(b"".join(pieces)).state.latents, large["latents"])


@given(st.integers(0, 8 * len(DATA) - 1))
def test_a_flipped_bit_is_seen(bit: int) -> None:
    changed = bytearray(DATA)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedSnapshot, match="checksum"):
        decode(bytes(changed), fingerprint(), OWNER)


def test_no_byte_may_change_and_none_may_lack() -> None:
    """All of them, one after the other."""
    for position in range(len(DATA)):
        changed = bytearray(DATA)
        changed[position] ^= 1 << position % 8
        for data in (bytes(changed), DATA[:position]):
            with pytest.raises(DamagedSnapshot):
                decode(data, fingerprint(), OWNER)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_snapshot(data: bytes) -> None:
    with pytest.raises(DamagedSnapshot):
        decode(data)
    with pytest.raises(DamagedSnapshot):
        decode(DATA + data + b"\0")
    whole = data + hashlib.sha256(data).digest()  # nobody writes this, but it must not end in another exception
    with pytest.raises(BadSnapshot):
        decode(whole)


def signed(front: bytes) -> bytes:
    return front + hashlib.sha256(front).digest()


def test_another_version_is_told() -> None:
    old, new = rb"\"version\": 1,", rb"\"version\": 2,"
    assert DATA.count(old) == 1
    with pytest.raises(BadSnapshot, match="format version 2, this is version 1"):
        decode(signed(DATA[:-DIGEST_BYTES].replace(old, new)), fingerprint(), OWNER)


def test_the_header_of_another_program_is_told() -> None:
    theirs = safetensors.torch.save({"latents": torch.zeros(3)})
    with pytest.raises(BadSnapshot, match="malformed"):
        decode(signed(theirs))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_shape": (2, 1, 4, 3)}, r"latent_shape is \(2, 1, 2, 3\), expected \(2, 1, 4, 3\)"),
        ({"steps": 20}, "steps is 12, expected 20"),
        ({"guidance": 5.0}, "guidance is 4.0, expected 5.0"),
        ({"guidance_low": 3.0}, "guidance_low is None, expected 3.0"),
        ({"seed": 8}, "seed is 7, expected 8"),
        ({"flow_shift": 5.0}, "schedule is"),
        ({"kind": "edit_video"}, "kind is 'text_to_video', expected 'edit_video'"),
    ],
)
def test_one_of_another_run_is_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSnapshot, match=message) as caught:
        decode(DATA, fingerprint(**fields), OWNER)
    assert not isinstance(caught.value, DamagedSnapshot)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        ("nano", UNIPC, "model is 'tiny', expected 'nano'"),
        ("tiny", {**UNIPC, "_class_name": "FlowMatchEulerDiscreteScheduler"}, "scheduler is 'UniPC.*expected 'FlowM"),
        ("tiny", {**UNIPC, "flow_shift": 5.0}, "schedule is"),
    ],
)
def test_one_of_another_model_or_schedule_is_told(model: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSnapshot, match=message):
        decode(DATA, Fingerprint.of(model, segment_spec(), config))


def test_one_of_exact_weights_is_not_taken_by_others() -> None:
    """Nor the other way round: a clip would begin with one network and end with another."""
    card = find_model("nano")
    names = [weights_of(card), weights_of(replace(card, load=LoadOptions(quantize="fp8")))]
    assert names[0].startswith("nano@") and names[1] == f"{names[0]}+fp8"
    for mine, other in (names, names[::-1]):
        written = replace(snapshot(5), fingerprint=Fingerprint.of(mine, segment_spec(), UNIPC))
        expected = Fingerprint.of(other, segment_spec(), UNIPC)
        with pytest.raises(BadSnapshot, match=re.escape(f"model is {mine!r}, expected {other!r}")):
            decode(b"".join(encode(written)), expected, OWNER)


def test_the_version_of_diffusers_and_the_id_of_the_segment_do_not_matter() -> None:
    decode(DATA, Fingerprint.of("tiny", segment_spec(id="another"), {**UNIPC, "_diffusers_version": "0.99"}), OWNER)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (Owner("other", 2, 3), "of segment 2 of job vid_job-1, not 2 of other"),
        (Owner("vid_job-1", 1, 3), "of segment 2 of job vid_job-1, not 1 of"),
        (Owner("vid_job-1", 2, 2), "of lease epoch 3, later than 2"),
    ],
)
def test_one_of_another_segment_or_a_later_lease_is_told(owner: Owner, message: str) -> None:
    with pytest.raises(BadSnapshot, match=message):
        decode(DATA, fingerprint(), owner)
    decode(DATA, fingerprint(), Owner("vid_job-1", 2, 4))


def test_a_type_that_has_no_place_in_it_is_refused() -> None:
    written = snapshot(0)
    state = written.state.with_tensors({"latents": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(ValueError, match=r"latents is torch.complex64, a snapshot holds one of torch.float32"):
        list(encode(replace(written, state=state)))
