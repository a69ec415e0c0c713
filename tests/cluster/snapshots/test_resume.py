"""A segment goes on from a snapshot, on another engine, with the latents of a run that nothing interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.fixtures.random_checkpoints import write_a14b, write_t2v, write_vace
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.cluster.protocol.messages import Owner
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.format import BadSnapshot, Fingerprint, Snapshot, decode, encode
from zoetrope.cluster.snapshots.keeper import SnapshotKeeper
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.cluster.snapshots.writer import SnapshotWriter
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.profiles import find_profile
from zoetrope.model.checkpoints.load import load_denoiser
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.resume import resume, sampler_of, state_of
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.steps import computes

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
OWNER = Owner("vid_resumed", 0, 1)
SHAPE = (16, 2, 4, 4)
LIMIT = 30.0
Making = tuple[Callable[[], Denoiser], Conditions, SegmentSpec]


def texts(dim: int = TEXT_DIM) -> Conditions:
    """Two prompts and nothing else."""
    positive, negative = torch.randn(2, 4, dim, generator=torch.Generator().manual_seed(5))
    return Conditions(positive, negative)


def plain(directory: Path) -> Making:
    write_t2v(directory)
    return lambda: loaded(directory), texts(), SegmentSpec("a", SHAPE, 4, 3.0, 11)


def loaded(directory: Path) -> Denoiser:
    return load_denoiser(find_model(str(directory)), CPU)


def noisy_known(directory: Path) -> Making:
    """Frames that are known and as noisy as the rest, by the noise that the segment started from."""
    make, conditions, spec = plain(directory)
    known = torch.randn(SHAPE, generator=torch.Generator().manual_seed(6))
    frames = torch.tensor([True, False])
    return make, replace(conditions, known=known, known_frames=frames, clean_known=False), spec


def references(directory: Path) -> Making:
    """VACE, with a latent frame in front that is cut off at the end."""
    write_vace(directory)
    hints = torch.randn(96, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    conditions = replace(texts(), hints=hints, hint_scales=(1.0, 0.5), lead=1)
    return lambda: loaded(directory), conditions, SegmentSpec("a", SHAPE, 3, 3.0, 11)


def nano(_directory: Path) -> Making:
    """Flow-match Euler, and a network that was trained."""
    card = find_model("nano")
    denoiser = load_denoiser(card, CPU)
    conditions = texts(denoiser.transformer.config.text_dim)
    return lambda: load_denoiser(card, CPU), conditions, SegmentSpec("a", (card.latent_channels, 2, 6, 8), 4, 3.0, 11)


def saving(directory: Path) -> Making:
    """Steps that reuse a velocity, and an interval of guidance."""
    make, conditions, spec = nano(directory)
    return make, conditions, replace(spec, steps=9, step_mask="##..#..##", guidance_start=0.2, guidance_end=0.6)


def to_the_end(denoiser: Denoiser, segment: Segment) -> torch.Tensor:
    while not segment.sampler.done:
        denoiser.step([segment])
    return segment.result()


def fingerprint(denoiser: Denoiser, spec: SegmentSpec) -> Fingerprint:
    return Fingerprint.of("tiny", spec, denoiser.scheduler_config)


@pytest.mark.parametrize("making", [plain, noisy_known, references, nano, saving])
def test_from_any_step_on_another_engine(making: Callable[[Path], Making], tmp_path: Path) -> None:
    make, conditions, spec = making(tmp_path)
    first = make()
    segment = first.start(spec, conditions)
    taken = [b"".join(encode(Snapshot(OWNER, fingerprint(first, spec), state_of(segment))))]
    while not segment.sampler.done:
        first.step([segment])
        taken.append(b"".join(encode(Snapshot(OWNER, fingerprint(first, spec), state_of(segment)))))
    second = make()
    held = [k for k in range(spec.steps) if computes(spec, k)] + [spec.steps]  # before computed steps, and at the end
    for k, data in zip(held, taken, strict=True):
        found = decode(data, fingerprint(second, replace(spec, id="b")), replace(OWNER, epoch=4))
        resumed = resume(second, second.start(replace(spec, id="b"), conditions), found.state)
        assert (resumed.sampler.step, resumed.sampler.done, found.finished) == (k, k == spec.steps, k == spec.steps)
        assert torch.equal(to_the_end(second, resumed), segment.result()), f"from step {k}"


def test_in_a_batch_with_others_at_other_steps(tmp_path: Path) -> None:
    make, conditions, spec = plain(tmp_path)
    denoiser = make()
    expected = to_the_end(denoiser, denoiser.start(spec, conditions))
    segment, other = denoiser.start(spec, conditions), denoiser.start(replace(spec, id="other", seed=1), conditions)
    denoiser.step([segment, other])
    denoiser.step([segment])
    resumed = resume(denoiser, denoiser.start(spec, conditions), state_of(segment))
    denoiser.step([resumed, other])
    denoiser.step([resumed, other])
    assert resumed.sampler.done
    torch.testing.assert_close(resumed.result(), expected, rtol=0, atol=1e-5)


def test_from_the_high_noise_expert_to_the_low_noise_one(tmp_path: Path) -> None:
    """Each on an engine of its own: the snapshot is all that moves."""
    write_a14b(tmp_path)
    card = find_model(str(tmp_path))
    both, high, low = (load_denoiser(card, CPU, role=role) for role in ("both", "high", "low"))
    spec, conditions = SegmentSpec("a", SHAPE, 5, 3.0, 11, guidance_low=2.0), texts()
    expected = to_the_end(both, both.start(spec, conditions))
    segment = high.start(spec, conditions)
    while high.takes(segment):
        high.step([segment])
    assert 0 < segment.sampler.step < spec.steps
    snapshot = decode(b"".join(encode(Snapshot(OWNER, fingerprint(high, spec), state_of(segment)))))
    moved = resume(low, low.start(spec, conditions), snapshot.state)
    assert low.takes(moved)
    assert torch.equal(to_the_end(low, moved), expected)


def test_a_snapshot_of_another_mask_or_interval_is_refused(tmp_path: Path) -> None:
    make, conditions, spec = saving(tmp_path)
    denoiser = make()
    segment = denoiser.start(spec, conditions)
    denoiser.step([segment])
    data = b"".join(encode(Snapshot(OWNER, fingerprint(denoiser, spec), state_of(segment))))
    assert decode(data, fingerprint(denoiser, spec)).step == 1
    for name, value in (("step_mask", ""), ("guidance_start", 0.0), ("guidance_end", 1.0)):
        with pytest.raises(BadSnapshot, match=f"{name} is .*, expected {value!r}"):
            decode(data, fingerprint(denoiser, replace(spec, **{name: value})))  # type: ignore[arg-type]


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    make, conditions, spec = plain(tmp_path)
    denoiser = make()
    state = state_of(denoiser.start(replace(spec, latent_shape=(16, 1, 4, 4)), conditions))
    with pytest.raises(ValueError, match=r"latents are \(16, 1, 4, 4\) torch.float32, expected \(16, 2, 4, 4\)"):
        resume(denoiser, denoiser.start(spec, conditions), state)


ENGINE = """
import os, signal, sys, time
from pathlib import Path
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.keeper import SnapshotKeeper
from zoetrope.cluster.snapshots.store import SnapshotStore
from zoetrope.cluster.snapshots.writer import SnapshotWriter
from tests.cluster.snapshots.test_resume import LIMIT, OWNER, loaded, texts, SHAPE
from zoetrope.model.request.specs import SegmentSpec

denoiser, writer = loaded(Path(sys.argv[1])), SnapshotWriter(SnapshotStore(sys.argv[2]))
keeper = SnapshotKeeper(writer, EngineSettings(snapshot_steps=1), "tiny", denoiser.scheduler_config)
segment = denoiser.start(SegmentSpec("first", SHAPE, 4, 3.0, 11), texts())
keeper.track(segment, OWNER)
for _ in range(3):
    denoiser.step([segment])
    keeper.after_step([segment], 0.1)
    writer.flush(LIMIT)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.integration
def test_after_the_process_was_killed(tmp_path: Path) -> None:
    """The newest snapshot of the dead engine, and the one before it where that one is damaged."""
    make, conditions, spec = plain(tmp_path / "model")
    store = tmp_path / "store"
    command = [sys.executable, "-c", ENGINE, str(tmp_path / "model"), str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    denoiser = make()
    expected = to_the_end(denoiser, denoiser.start(spec, conditions))
    heir = replace(OWNER, epoch=2)
    for step in (3, 2):
        found = SnapshotStore(str(store)).latest(heir, fingerprint(denoiser, spec))
        assert found is not None and found.step == step
        resumed = resume(denoiser, denoiser.start(spec, conditions), found.state)
        assert torch.equal(to_the_end(denoiser, resumed), expected)
        newest = max((store / "snapshots").rglob("*-*"))
        newest.write_bytes(newest.read_bytes()[:-40])
    assert SnapshotStore(str(store)).latest(heir, fingerprint(denoiser, spec)) is None


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_keeper_takes_what_is_due(tmp_path: Path) -> None:
    make, conditions, spec = plain(tmp_path / "model")
    denoiser, store, now = make(), SnapshotStore(str(tmp_path / "store")), Now()
    writer = SnapshotWriter(store)
    keeper = SnapshotKeeper(writer, EngineSettings(snapshot_share=0.5), "tiny", denoiser.scheduler_config, clock=now)
    segment = denoiser.start(replace(spec, steps=8), conditions)
    stranger = denoiser.start(replace(spec, id="stranger"), conditions)  # nobody's, so it has no snapshots
    keeper.track(segment, OWNER)
    steps = []
    for _ in range(8):
        denoiser.step([segment])
        now.seconds += 4.0
        waited = keeper.after_step([segment, stranger], 4.0)
        assert keeper.checkpoint([stranger], 0)
        writer.flush(LIMIT)
        if waited:
            steps.append(segment.sampler.step)
    assert steps == [2, 4, 6, 8]  # one more step would end after twelve seconds; the last is the result
    found = store.latest(OWNER, fingerprint(denoiser, segment.spec))
    assert found is not None and found.finished
    assert torch.equal(found.state.latents, segment.latents)


@pytest.mark.parametrize("name", ["lightx2v-4", "fastwan-3", "rcm-4"])
def test_a_profile_goes_on_from_each_of_its_steps(tmp_path: Path, name: str) -> None:
    """Through the store, by a second engine, with the draws that the first would have made."""
    profile, (make, conditions, spec) = find_profile(name), plain(tmp_path / "model")
    spec = replace(spec, steps=profile.steps, guidance=1.0, profile=profile)
    denoiser, other, store = make(), make(), SnapshotStore(str(tmp_path / "store"))
    writer = SnapshotWriter(store)
    keeper = SnapshotKeeper(writer, EngineSettings(), "tiny", denoiser.scheduler_config)
    segment, found = denoiser.start(spec, conditions), []
    keeper.track(segment, OWNER)
    while not segment.sampler.done:
        denoiser.step([segment])
        keeper.after_step([segment], 0.1)
        assert writer.flush(LIMIT)
        latest = store.latest(OWNER, fingerprint(other, spec), partial(sampler_of, scheduler_config={}, spec=spec))
        assert latest is not None
        found.append(latest)
    assert [snapshot.step for snapshot in found] == [*range(1, profile.steps + 1)]
    for snapshot in found:
        resumed = resume(other, other.start(spec, conditions), snapshot.state)
        while not resumed.sampler.done:
            other.step([resumed])
        assert torch.equal(resumed.result(), segment.result())
    shifted = replace(profile, sigmas=(*profile.sigmas[:-1], profile.sigmas[-1] - 0.01))
    for changed in (replace(spec, profile=None), replace(spec, profile=shifted)):
        assert store.latest(OWNER, fingerprint(other, changed)) is None


def test_a_keeper_puts_all_away_and_tries_again_what_failed(tmp_path: Path) -> None:
    make, conditions, spec = plain(tmp_path / "model")
    denoiser, store = make(), SnapshotStore(str(tmp_path / "store"))
    writer = SnapshotWriter(store)
    keeper = SnapshotKeeper(writer, EngineSettings(), "tiny", denoiser.scheduler_config)
    segments = [denoiser.start(replace(spec, id=str(i)), conditions) for i in range(3)]
    for i, segment in enumerate(segments):
        keeper.track(segment, replace(OWNER, index=i))
    denoiser.step(segments[:2])
    keeper.after_step(segments[:2], 0.1)
    assert writer.flush(LIMIT) and writer.written == 0  # not due
    blocker = tmp_path / "store" / "snapshots"
    blocker.write_text("in the way")
    assert not keeper.checkpoint(segments, LIMIT)
    blocker.unlink()
    assert keeper.checkpoint(segments, LIMIT)
    assert writer.written == 2  # the third has taken no step, it loses nothing
    assert keeper.checkpoint(segments, LIMIT)
    assert writer.written == 2
    for i, segment in enumerate(segments[:2]):
        found = store.latest(replace(OWNER, index=i), fingerprint(denoiser, segment.spec))
        assert found is not None and torch.equal(found.state.latents, segment.latents)
    keeper.forget("0")
    denoiser.step(segments[:2])
    assert keeper.checkpoint(segments, LIMIT)
    assert writer.written == 3
