"""Steps are taken compiled where that was measured to be faster, and eagerly where nothing can be compiled."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch

from tests.cluster.parallel.compiled_jobs import ALWAYS, LADDER, Counter
from tests.fixtures.random_checkpoints import write_t2v
from tests.fixtures.transformer_shape import TRANSFORMER
from zoetrope.cluster.engine.rank import Rank
from zoetrope.cluster.parallel import compiled
from zoetrope.cluster.parallel.compiled import Backend, Chooser, Gains, Rung, longest_clip, measure
from zoetrope.cluster.protocol.messages import Admit, StepPlan
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.forward import ForwardRun, run_alone
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence as Tokens
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.pipeline import NOTHING, LocalPipeline, condition_span
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import segment_of
from zoetrope.model.request.tasks import TextToVideo, VideoRequest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def one_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles less, where it does not matter what for."""
    monkeypatch.setattr(compiled, "MIXES", compiled.MIXES[:1])


@pytest.fixture
def network() -> WanTransformer:
    torch.manual_seed(0)
    shape = {**TRANSFORMER, "num_layers": 1}  # each block that is compiled takes seconds
    return WanTransformer(TransformerConfig.model_validate(shape)).eval().requires_grad_(False)


def batch_of(network: WanTransformer, tokens: int) -> list[Tokens]:
    generator = torch.Generator().manual_seed(1)
    shape, text = (16, tokens, 2, 2), torch.randn(3, network.config.text_dim, generator=generator)
    latents = torch.randn(shape, generator=generator)
    return [blank_conditions(network.config, shape, text).sequence(latents, 500.0, text)]


def test_a_step_goes_the_way_of_the_nearest_rung_by_ratio() -> None:
    gains = Gains((Rung(100, 1.0, 1.5), Rung(400, 1.0, 0.9), Rung(1600, 1.0, 1.0)))
    assert [gains.pays(n) for n in (0, 1, 100, 199)] == [False] * 4
    assert [gains.pays(n) for n in (201, 400, 799)] == [True] * 3
    assert [gains.pays(n) for n in (801, 1600, 10**9)] == [False] * 3  # no faster is not faster
    assert not Gains().pays(400)
    assert Rung(400, 1.0, 0.8).gain == 1.25


def test_the_chooser_compiles_nothing_itself(network: WanTransformer) -> None:
    counter, chooser = Counter(), Chooser(run_alone)
    for block in network.layers():
        block.compile(dynamic=True, backend=counter)
    batch = batch_of(network, 6)
    with torch.inference_mode():
        expected = chooser(network, batch)
        chooser.gains = ALWAYS
        found = chooser(network, batch)
    assert (counter.graphs, counter.calls) == (0, 0)
    assert found.tokens == expected.tokens == 6
    assert torch.equal(found.velocities[0], expected.velocities[0])


@pytest.mark.usefixtures("one_mix")
def test_rungs_are_measured_in_turns_and_the_chooser_asks_for_the_tokens_of_all_streams(
    network: WanTransformer,
) -> None:
    counts: list[int] = []

    def runner(network: Network, sequences: list[Tokens]) -> ForwardRun:
        run = run_alone(network, sequences)
        counts.append(run.tokens)
        return run

    counter = Counter()
    gains = measure([network], runner, 20, 4, backend=counter, ladder=(16, 64))
    assert [rung.tokens for rung in gains.rungs] == [16, 64]
    assert all(rung.eager > 0 and rung.compiled > 0 for rung in gains.rungs)
    assert gains.compiling > 0
    each = 1 + 2 * 4  # one to compile for the size, then both ways: once to warm up and three times by the clock
    assert counts[-2 * each :] == [16] * each + [64] * each
    chooser = Chooser(run_alone)
    chooser.gains = replace(gains, rungs=(Rung(4, 1.0, 2.0), Rung(16, 2.0, 1.0)))  # the line lies at 8
    with torch.inference_mode():
        before = counter.calls
        chooser(network, batch_of(network, 7))
        assert counter.calls == before
        chooser(network, [*batch_of(network, 5), *batch_of(network, 4)])
        assert counter.calls > before
    # The ladder ends after a long step.
    gains = measure([network], runner, 20, 4, backend=counter, ladder=(16, 64), step_seconds=1e-9)
    assert [rung.tokens for rung in gains.rungs] == [16]


@pytest.mark.long
@pytest.mark.usefixtures("one_mix")
def test_the_slowest_rank_counts(network: WanTransformer) -> None:
    def slowest(values: Sequence[int]) -> list[int]:
        return [0] if len(values) == 1 else [3_000_000, 2_000_000, 0]

    gains = measure([network], run_alone, 20, 4, agree=slowest, backend=Counter(), ladder=(16, 64))
    assert gains.rungs == (Rung(16, 3.0, 2.0),)


def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    raise OSError("no such compiler")


def test_without_a_compiler_all_steps_are_eager(network: WanTransformer, caplog: pytest.LogCaptureFixture) -> None:
    assert measure([network], run_alone, 20, 4, backend=broken, ladder=LADDER) == Gains()
    (warning,) = [record for record in caplog.records if record.name == "zoetrope.compiled"]
    assert warning.levelno == logging.WARNING and "no such compiler" in warning.getMessage()


def test_where_another_rank_has_no_compiler_all_steps_are_eager(
    network: WanTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    counter = Counter()
    assert measure([network], run_alone, 20, 4, agree=lambda _: [1], backend=counter) == Gains()
    assert counter.graphs == 1  # the trial
    assert "another rank" in caplog.text


@pytest.mark.usefixtures("one_mix")
def test_code_that_cannot_be_compiled_stays_eager(network: WanTransformer) -> None:
    """A rank that raised in the middle of a step would leave the others of its gang waiting."""
    counter = Counter()

    def only_the_trial(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return broken(graph, inputs) if counter.graphs else counter(graph, inputs)

    batch = batch_of(network, 6)
    with torch.inference_mode():
        expected = run_alone(network, batch)
        chooser = Chooser(run_alone)
        gains = measure([network], run_alone, 20, 4, backend=only_the_trial, ladder=LADDER)
        assert len(gains.rungs) == len(LADDER)
        chooser.gains = ALWAYS
        assert torch.equal(chooser(network, batch).velocities[0], expected.velocities[0])


@pytest.mark.long
def test_a_machine_without_a_cpp_compiler_is_told_of_it(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from zoetrope.cluster.parallel.compiled import measure\n"
        "from zoetrope.model.families.config import TransformerConfig\n"
        "from zoetrope.model.denoising.forward import run_alone\n"
        "from zoetrope.model.network.transformer import WanTransformer\n"
        f"network = WanTransformer(TransformerConfig.model_validate({TRANSFORMER!r}))\n"
        "print(measure([network], run_alone, 20, 4))"
    )
    environment = {**os.environ, "CXX": str(tmp_path / "c++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(Gains())), done.stderr
    assert "steps stay eager, blocks cannot be compiled here" in done.stderr
    assert str(tmp_path / "c++") in done.stderr


@pytest.mark.parametrize(
    ("longest", "words", "ladder", "message"),
    [
        (0, 4, (8,), "longest is 0: it must be at least 1"),
        (8, -1, (8,), "words is -1: it must be at least 1"),
        (8, 4, (8, 0), "ladder is 8, 0: it must be at least 1"),
        (8, 4, (), "ladder is empty: it must be at least 1"),
    ],
)
def test_nothing_is_measured_of_nothing(
    longest: int, words: int, ladder: tuple[int, ...], message: str, network: WanTransformer
) -> None:
    with pytest.raises(ValueError, match=message):
        measure([network], run_alone, longest, words, ladder=ladder)
    with pytest.raises(ValueError, match="networks is empty"):
        measure([], run_alone, 8, 4)


def test_the_longest_clip_is_that_of_a_segment_of_the_largest_size() -> None:
    nano = find_model("nano")
    assert longest_clip(nano) == 5 * 8 * 8  # 17 frames of 32 x 32
    free = replace(nano, native_sizes=(), segment_frames=0, max_frames=81, temporal=4, size_multiple=16)
    assert longest_clip(free) == 21 * 120 * 68  # 1920 x 1088, the next size up from 1080p


def serve(folder: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> tuple[Gains, float]:
    """What a rank measures that compiles, and how far a clip of only compiled steps is from an eager one."""
    measured: list[Gains] = []

    def measure_all(*args: Any, **more: Any) -> Gains:
        measured.append(measure(*args, **more, backend=backend, ladder=LADDER))
        return replace(measured[0], rungs=ALWAYS.rungs)

    write_t2v(folder)
    card = find_model(str(folder))
    monkeypatch.setattr(compiled, "measure", measure_all)
    rank, local = Rank(card, EngineSettings(compile=True)), LocalPipeline.load(card)
    rank.join(0, "")
    request = VideoRequest(task=TextToVideo(prompt="a red circle"), size="48x32", frames=5, steps=3, seed=1)
    spec = resolve(request, card, 0)
    conditions = condition_span(local.text, local.conditioner, spec, NOTHING, 0, None)
    rank.execute(StepPlan(admit=(Admit(segment_of(spec, "a"), ray.put(conditions)),), advance=("a",)))
    rank.execute(StepPlan(advance=("a",)))
    (finished,) = rank.execute(StepPlan(advance=("a",))).finished
    return measured[0], float((torch.from_numpy(np.array(ray.get(finished.latents))) - local.run(spec)[0]).abs().max())


@pytest.mark.usefixtures("ray_session", "one_mix")
def test_a_rank_takes_the_steps_that_pay_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()
    last: list[int] = []
    usual = Chooser.__call__

    def call(self: Chooser, network: Network, sequences: list[Tokens]) -> ForwardRun:
        before = counter.calls
        run = usual(self, network, sequences)
        last.append(counter.calls - before)
        return run

    monkeypatch.setattr(Chooser, "__call__", call)
    gains, distance = serve(tmp_path, counter, monkeypatch)
    assert len(gains.rungs) == len(LADDER)
    assert len(last) > 3 and min(last[-3:]) > 0  # steps to warm up may be too small for compiled code
    assert distance <= 1e-5


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_what_inductor_compiles_gives_the_same_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    gains, distance = serve(tmp_path, "inductor", monkeypatch)
    assert len(gains.rungs) == len(LADDER)
    assert 0 < distance <= 1e-5  # bits differ: it was not the eager code that ran
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
