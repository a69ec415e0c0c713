"""Steps that repeat are captured once and replayed, give the same bits, and never fail for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests.model.denoising.tape import Tape
from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.types.upload import held_tables, keep_tables
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.forward import Runner, run_alone
from zoetrope.model.denoising.graphs import CapturedPass, GraphLimits, GraphRunner
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.sequences import PackedBatch, Sequence
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.specs import SegmentSpec

CHANNELS, TEXT_DIM, IMAGE_DIM, HINT_CHANNELS = 4, 12, 10, 6
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "experts": {"moe": MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=16, shared_dim=16)},
    "clip": {"in_channels": CHANNELS + 1, "image_dim": IMAGE_DIM, "added_kv_proj_dim": 32},
    "vace": {"vace_layers": (0, 1), "vace_in_channels": HINT_CHANNELS},
}
LIMITS = GraphLimits(tokens=1000, memory=1 << 30)


def denoiser(family: str, runner: Runner) -> Denoiser:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
    }
    high, low = (
        WanTransformer(TransformerConfig(**(shape | FAMILIES[family]))).eval().requires_grad_(False) for _ in range(2)
    )
    return Denoiser(high, UNIPC, low, boundary=0.6, runner=runner)


def segment(of: Denoiser, seed: int, *, steps: int = 8, rows: int = 2, words: int = 3) -> Segment:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    config, shape = of.transformer.config, (CHANNELS, 2, rows, 4)
    conditions = Conditions(
        random(words, TEXT_DIM),
        random(2, TEXT_DIM),
        known=random(*shape),
        known_frames=torch.tensor([True, False]),
        channels=random(1, *shape[1:]) if config.image_dim else None,
        image=random(4, IMAGE_DIM) if config.image_dim else None,
        hints=random(HINT_CHANNELS, *shape[1:]) if config.vace_layers else None,
        hint_scales=(1.0, 0.5) if config.vace_layers else (),
    )
    return of.start(SegmentSpec(str(seed), shape, steps, 2.0, seed), conditions)


def finish(of: Denoiser, *segments: Segment) -> list[torch.Tensor]:
    while running := [s for s in segments if not s.sampler.done]:
        of.step(running)
    return [s.result() for s in segments]


@dataclass
class Broken:
    """A graph of which some call fails."""

    made: Tape
    error: Exception | None = None
    size: int = 0

    @property
    def output(self) -> torch.Tensor:
        return self.made.output

    def replay(self) -> None:
        if self.error is not None:
            raise self.error
        self.made.replay()

    def release(self) -> None:
        self.made.release()


@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_steps_are_bitwise_those_of_eager_ones(family: str) -> None:
    """Over two noise experts, segments that come and go, and another prompt of the same length."""
    results = []
    for runner in (GraphRunner(LIMITS, Tape), run_alone):
        of = denoiser(family, runner)
        first = finish(of, segment(of, 1), segment(of, 2))
        mixed = finish(of, segment(of, 3), segment(of, 4, steps=5, rows=4), segment(of, 5, words=2))
        results.append([*first, *mixed, *finish(of, segment(of, 6), segment(of, 7))])
        if isinstance(runner, GraphRunner):
            assert runner.graphs > 2 and runner.replays > 12
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))


def test_only_what_repeats_is_captured() -> None:
    made: list[Tape] = []

    def capture(run: Callable[[], torch.Tensor], device: torch.device) -> Tape:
        made.append(Tape(run, device))
        return made[-1]

    runner = GraphRunner(replace(LIMITS, repeats=3), capture)
    of = denoiser("plain", runner)
    one = segment(of, 1, steps=20)
    counts = []
    for _ in range(6):
        of.step([one])
        counts.append((len(made), runner.replays))
    assert counts == [(0, 0), (0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]


def test_too_many_tokens_and_training_run_eagerly() -> None:
    runner = GraphRunner(replace(LIMITS, tokens=7), Tape)
    of = denoiser("plain", runner)
    finish(of, segment(of, 1))
    assert (runner.graphs, runner.replays) == (0, 0), "two branches of 4 tokens"
    runner = GraphRunner(LIMITS, Tape)
    network, sequences = of.transformer, of._sequences(one := segment(of, 1), one.mode)
    with torch.no_grad():
        for _ in range(4):
            runner(network, sequences)
    assert runner.graphs == 0, "outside inference mode weights may change"


def test_a_batch_that_says_more_is_never_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a subclass adds is unknown here, so it may decide about launches."""

    @dataclass(frozen=True)
    class OtherBatch(PackedBatch):
        rate: float = 1.0

    runner = GraphRunner(LIMITS, Tape)
    of = denoiser("plain", runner)
    pack = of.transformer.pack

    def packed(sequences: list[Sequence]) -> PackedBatch:
        return OtherBatch(**vars(pack(sequences)))

    monkeypatch.setattr(of.transformer, "pack", packed)
    one = segment(of, 1)
    for _ in range(3):
        of.step([one])
    assert runner.graphs == 0


def test_graphs_are_bounded_by_their_number_and_memory() -> None:
    kept: list[Broken] = []

    def capture(run: Callable[[], torch.Tensor], device: torch.device) -> CapturedPass:
        kept.append(Broken(Tape(run, device), size=1 << 20))
        return kept[-1]

    def repeat(runner: GraphRunner, rows: int, times: int = 2) -> None:
        of._runner = runner
        one = segment(of, rows, rows=rows, steps=20)
        for _ in range(times):
            of.step([one])

    of = denoiser("plain", run_alone)
    runner = GraphRunner(replace(LIMITS, most=2), capture)
    for rows in (2, 4, 6):
        repeat(runner, rows)
    assert runner.graphs == 2 and [one.made.released for one in kept] == [True, False, False]
    repeat(runner, 4, times=1)
    repeat(runner, 8)
    assert [one.made.released for one in kept] == [True, False, True, False], "the one not used for longest goes"
    kept.clear()
    runner = GraphRunner(replace(LIMITS, memory=(5 << 20) // 2), capture)
    for rows in (2, 4, 6):
        repeat(runner, rows)
    assert runner.graphs == 2 and 2 << 20 < runner.size < 5 << 19
    runner = GraphRunner(replace(LIMITS, memory=1 << 19), capture)
    kept.clear()
    repeat(runner, 2, times=9)
    assert (runner.graphs, len(kept)) == (0, 1), "one that is too large alone is not tried again"


class LostDevice(RuntimeError):
    pass


@pytest.mark.parametrize("where", ["capture", "replay", "no memory to capture", "no memory to replay"])
def test_a_step_never_fails_for_a_graph(where: str, caplog: pytest.LogCaptureFixture) -> None:
    error: Exception = torch.cuda.OutOfMemoryError("none") if where.startswith("no") else LostDevice("broken")
    tries = 0

    def capture(run: Callable[[], torch.Tensor], device: torch.device) -> Broken:
        nonlocal tries
        tries += 1
        if where.endswith("capture"):
            raise error
        return Broken(Tape(run, device), error)

    runner = GraphRunner(LIMITS, capture)
    ours, theirs = denoiser("plain", runner), denoiser("plain", run_alone)
    assert torch.equal(*(finish(of, segment(of, 1, steps=9))[0] for of in (ours, theirs)))
    assert (runner.graphs, runner.replays) == (0, 0)
    if where in ("capture", "replay"):
        assert tries == 1 and "run eagerly from now on: broken" in caplog.text


def test_an_eager_step_gets_the_memory_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = GraphRunner(LIMITS, Tape)
    of = denoiser("plain", runner)
    finish(of, segment(of, 1, steps=3))
    assert runner.graphs == 1
    forward, full = WanTransformer.forward, iter([True])

    def scarce(self: WanTransformer, batch: PackedBatch) -> torch.Tensor:
        if next(full, False):
            raise torch.cuda.OutOfMemoryError("no memory")
        return forward(self, batch)

    monkeypatch.setattr(WanTransformer, "forward", scarce)
    of.step([segment(of, 2, rows=6)])
    assert runner.graphs == 0
    full = iter([True])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        of.step([segment(of, 2, rows=6)])


@pytest.mark.parametrize("name, value", [("tokens", 0), ("memory", -1), ("repeats", 0), ("most", 0)])
def test_limits_that_make_no_sense(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}: it must be at least"):
        replace(LIMITS, **{name: value})


def test_tables_are_held_by_whoever_uses_them() -> None:
    @keep_tables
    def tables(number: int) -> torch.Tensor:
        return torch.tensor([number])

    first = tables(0)
    with held_tables() as held:
        assert tables(0) is first
        offsets = CuSeqlens.of([3, 4]).tensor(torch.device("cpu"))
    assert [x is y for x, y in zip(held, (first, offsets), strict=True)] == [True, True]
    for number in range(1, 70):
        tables(number)
    assert tables(0) is not first and len(held) == 2, "what a cache drops lives on in the hands of its user"
