"""Steps that reuse a velocity, and steps without guidance: against loops of our own, in batches, between experts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.fixtures.random_checkpoints import write_a14b, write_t2v
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_denoiser
from zoetrope.model.denoising.conditions import Conditions, Source
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.forward import ForwardRun, run_alone
from zoetrope.model.denoising.guidance import Mode, branches, combine, scales
from zoetrope.model.denoising.resume import resume, state_of
from zoetrope.model.denoising.sampling import Sampler, initial_noise
from zoetrope.model.denoising.velocity_ratios import norm_ratio, velocity_ratios
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence as Tokens
from zoetrope.model.network.sequences import unpack_targets
from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.steps import computed_steps, forwards

CPU = torch.device("cpu")
SHAPE = (16, 2, 4, 4)
PLAIN = SegmentSpec("plain", SHAPE, 10, 3.0, 11)
FAST = replace(PLAIN, id="fast", step_mask="##..#...##")
LATE = replace(PLAIN, id="late", guidance_start=0.2, guidance_end=0.55)  # steps 2 to 5
BOTH = replace(LATE, id="both", step_mask="###.#.##.#", seed=3)


class Counter:
    """Runs sequences alone and counts them, a number for each forward pass."""

    def __init__(self) -> None:
        self.sequences: list[int] = []

    def __call__(self, network: Network, sequences: list[Tokens]) -> ForwardRun:
        self.sequences.append(len(sequences))
        return run_alone(network, sequences)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    folder = tmp_path_factory.mktemp("wan")
    write_t2v(folder)
    return load_denoiser(find_model(str(folder)), CPU)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a14b")
    write_a14b(folder)
    return folder


def texts() -> Conditions:
    positive, negative = torch.randn(2, 4, TEXT_DIM, generator=torch.Generator().manual_seed(5))
    return Conditions(positive, negative)


def counting(denoiser: Denoiser) -> tuple[Denoiser, Counter]:
    counter = Counter()
    return Denoiser(denoiser.transformer, denoiser.scheduler_config, runner=counter), counter


def to_the_end(denoiser: Denoiser, segments: Sequence[Segment]) -> list[torch.Tensor]:
    while pending := [segment for segment in segments if not segment.sampler.done]:
        denoiser.step(pending)
    return [segment.result() for segment in segments]


@torch.inference_mode()
def by_hand(denoiser: Denoiser, spec: SegmentSpec, conditions: Conditions) -> torch.Tensor:
    """The definition: step by step, with the velocity of the last computed step where the mask skips one, and the
    positive branch alone where guidance does not act."""
    sampler = Sampler(denoiser.scheduler_config, spec.steps)
    latents = initial_noise(spec.latent_shape, spec.seed)
    velocity = torch.zeros(())
    for step in range(spec.steps):
        if not spec.step_mask or spec.step_mask[step] == "#":
            inside = spec.guidance_start * spec.steps <= step < spec.guidance_end * spec.steps
            mode: Mode = conditions.guidance if inside else "none"
            made = []
            for branch in branches(mode):
                text = conditions.positive if branch.positive else conditions.negative
                assert text is not None
                tokens = conditions.sequence(latents, sampler.timestep, text, branch.streams)
                batch = denoiser.transformer.pack([tokens])
                made += unpack_targets(denoiser.transformer(batch).float(), batch, (1, 2, 2))
            weights = scales(mode, spec.guidance, None, False)
            velocity = combine(mode, made, latents, sampler.sigma, weights)
        latents = sampler.advance(velocity, latents)
    return conditions.finish(latents)


@pytest.mark.parametrize("spec", [PLAIN, FAST, LATE, BOTH], ids=lambda spec: spec.id)
def test_a_segment_is_what_the_definition_gives(spec: SegmentSpec, denoiser: Denoiser) -> None:
    ours, counter = counting(denoiser)
    (result,) = to_the_end(ours, [ours.start(spec, texts())])
    torch.testing.assert_close(result, by_hand(denoiser, spec, texts()), rtol=0, atol=1e-5)
    assert (sum(counter.sequences), len(counter.sequences)) == (forwards(spec), computed_steps(spec))


def test_what_is_saved_matters(denoiser: Denoiser) -> None:
    results = [to_the_end(denoiser, [denoiser.start(replace(s, seed=11), texts())])[0] for s in (PLAIN, FAST, LATE)]
    for other in results[1:]:
        assert 1e-4 < float((other - results[0]).norm() / results[0].norm()) < 0.5


def test_in_one_batch_each_is_itself_alone(denoiser: Denoiser) -> None:
    specs = (PLAIN, FAST, LATE, BOTH)
    alone = [to_the_end(denoiser, [denoiser.start(spec, texts())])[0] for spec in specs]
    ours, counter = counting(denoiser)
    together = to_the_end(ours, [ours.start(spec, texts()) for spec in specs])
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
    assert sum(counter.sequences) == sum(map(forwards, specs)), "segments that skip take no room in the batch"


def test_a_segment_is_held_before_computed_steps_only_and_resumes_at_each(denoiser: Denoiser) -> None:
    segment, taken = denoiser.start(BOTH, texts()), []
    while not segment.sampler.done:
        taken.append(state_of(segment))
        denoiser.step([segment])
    assert [state.step for state in taken] == [i for i, step in enumerate(BOTH.step_mask) if step == "#"]
    for state in taken:
        resumed = resume(denoiser, denoiser.start(BOTH, texts()), state)
        assert torch.equal(to_the_end(denoiser, [resumed])[0], segment.result()), f"from step {state.step}"


@pytest.mark.parametrize("mode", ["rv2v", "r2v", "t2v_apg"])
def test_berninis_chains_are_cut_to_what_sees_everything(mode: Mode, denoiser: Denoiser) -> None:
    video, image = torch.randn(2, 16, 2, 4, 4, generator=torch.Generator().manual_seed(6))
    sources = (Source(video, 1, video=True), Source(image, 2))
    conditions = replace(texts(), sources=sources, clean_sources=False, guidance=mode)
    spec = replace(PLAIN, steps=4, guidance_end=0.5)
    ours, counter = counting(denoiser)
    (result,) = to_the_end(ours, [ours.start(spec, conditions)])
    torch.testing.assert_close(result, by_hand(denoiser, spec, conditions), rtol=0, atol=1e-4)
    assert counter.sequences == [len(branches(mode))] * 2 + [1] * 2


def test_guidance_that_begins_later_needs_its_negative_prompt_at_once(denoiser: Denoiser) -> None:
    with pytest.raises(ValueError, match="needs a negative prompt"):
        denoiser.start(LATE, replace(texts(), negative=None))


def test_no_velocity_goes_from_one_noise_expert_to_the_other(experts: Path) -> None:
    """Even where a mask, made for another boundary, has it reused; nor from one engine to the next."""
    card = find_model(str(experts))
    both, high, low = (load_denoiser(card, CPU, role=role) for role in ("both", "high", "low"))
    probe = Sampler(both.scheduler_config, 10)
    split = 0
    while probe.timestep >= 875:
        probe.advance(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        split += 1
    assert 1 < split < 8
    fits = "#" + "." * (split - 1) + "#" + "." * (8 - split) + "#"
    spec = replace(PLAIN, step_mask=fits, guidance_low=2.0)
    careless = replace(spec, step_mask="#" + "." * 8 + "#")
    results = [to_the_end(both, [both.start(s, texts())])[0] for s in (spec, careless)]
    assert torch.equal(*results)
    segment = high.start(spec, texts())
    while high.takes(segment):
        high.step([segment])
    assert segment.sampler.step == split
    moved = resume(low, low.start(spec, texts()), state_of(segment))
    assert torch.equal(to_the_end(low, [moved])[0], results[0])


def test_ratios_are_those_of_the_velocities(denoiser: Denoiser) -> None:
    after, before = torch.tensor([[[[3.0, 1.0]]], [[[4.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]], [[[1.0, 0.0]]]])
    assert norm_ratio(after, before) == pytest.approx((5.0 + 0.5) / 2)
    frames = torch.cat([after, 7 * after], 1), torch.cat([before, before], 1)
    assert norm_ratio(*frames, torch.tensor([True, False])) == pytest.approx(7 * 2.75)
    assert norm_ratio(*frames, torch.tensor([True, True])) == pytest.approx(4 * 2.75), "nothing is left to measure"
    segment, seen = denoiser.start(PLAIN, texts()), []
    while not segment.sampler.done:
        denoiser.step([segment])
        assert segment.sampler.velocity is not None
        seen.append(segment.sampler.velocity)
    expected = [1.0, *(norm_ratio(b, a) for a, b in itertools.pairwise(seen))]
    steps: list[tuple[int, int]] = []
    found = velocity_ratios(denoiser, [denoiser.start(PLAIN, texts())], lambda *step: steps.append(step))
    assert found == [tuple(expected)] and steps[-1] == (10, 10)
    for bad in ([FAST], [PLAIN, replace(PLAIN, steps=4)]):
        with pytest.raises(ValueError, match="equally many steps"):
            velocity_ratios(denoiser, [denoiser.start(spec, texts()) for spec in bad], lambda *_: None)
