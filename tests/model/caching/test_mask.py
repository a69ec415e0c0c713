"""The steps that are computed: the published schedules, diffusers' own rule, and what always holds."""

from __future__ import annotations

import pytest
import torch
from diffusers import MagCacheConfig, WanTransformer3DModel
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.random_checkpoints import scattered
from tests.fixtures.transformer_shape import TEXT_DIM, TRANSFORMER
from zoetrope.model.caching.levels import level_of
from zoetrope.model.caching.mask import CacheLevel, high_noise_steps, ratio_at, step_mask
from zoetrope.model.caching.ratios import published_lists
from zoetrope.model.denoising.sampling import Sampler

# Schedules that MagCache's rules give with its own lists and settings. Where its code skips the last step (*), we
# compute it.
PUBLISHED = [
    ("wan2.1-t2v-14b", 50, None, (0.24, 6, 0.2), "##########......#......#......#.....#....#..#..#.#"),
    ("wan2.1-t2v-14b", 50, None, (0.12, 4, 0.2), "##########....#....#....#....#....#...#..#..#.#.##"),
    ("wan2.1-t2v-14b", 50, None, (0.06, 2, 0.2), "##########..#..#..#..#..#..#..#..#..#.#.#.#.######"),
    ("wan2.1-t2v-14b", 30, None, (0.24, 6, 0.2), "######......#......#....#..#.#"),
    ("wan2.1-t2v-14b", 20, None, (0.24, 6, 0.2), "####......#.....#..#"),
    ("wan2.1-t2v-1.3b", 50, None, (0.12, 4, 0.2), "##########....#....#....#....#....#...#..#..#.#.##"),
    ("wan2.1-i2v-14b-480p", 40, None, (0.24, 6, 0.2), "########......#.....#....#....#...#..#.#"),
    ("wan2.1-i2v-14b-720p", 40, None, (0.24, 6, 0.2), "########......#......#.....#....#..#..#*"),
    ("wan2.2-t2v-a14b", 40, 26, (0.06, 2, 0.4), "##########..#..#..#..#..#.######.#.#.###"),
    ("wan2.2-t2v-a14b", 40, 26, (0.06, 2, 0.2), "#####..#..#..#..#..#..#..####..#.#.#.###"),
    ("wan2.2-i2v-a14b", 40, 15, (0.06, 2, 0.1), "##..#..#..#..#.###.#..#..#..#.#.#.######"),
    ("wan2.2-ti2v-5b", 50, None, (0.06, 2, 0.2), "##########..#..#..#..#..#..#..#..#..#.#.#.#.#.#.#*"),
]


@pytest.mark.parametrize(("preset", "steps", "split", "numbers", "expected"), PUBLISHED)
def test_published_schedules(
    preset: str, steps: int, split: int | None, numbers: tuple[float, int, float], expected: str
) -> None:
    lists = published_lists(preset)[0].values
    assert len(lists) == 2, "of both guidance branches"
    for values in (lists, lists[:1], lists[1:]):
        assert step_mask(values, steps, CacheLevel(*numbers), split) == expected.replace("*", "#")


@pytest.mark.parametrize("steps", [10, 20])
def test_the_rule_is_the_one_that_diffusers_applies_to_a_wan(steps: int) -> None:
    """Which computes no last step in any case, and rounds the warm-up in another way, hence one of whole steps."""
    torch.manual_seed(0)
    values = [1.0, *(0.9 + 0.15 * torch.rand(11)).tolist()]
    network = scattered(WanTransformer3DModel(**TRANSFORMER)).eval()
    network.enable_cache(MagCacheConfig(0.2, 3, 0.2, steps, values))
    ran: list[bool] = []
    last = network.blocks[-1]
    last.ffn.register_forward_hook(lambda *_: ran.append(True))
    seen = ""
    with torch.no_grad(), network.cache_context("cond"):
        for step in range(steps):
            ran.clear()
            network(torch.randn(1, 16, 1, 4, 4), torch.tensor([900 - 40 * step]), torch.randn(1, 3, TEXT_DIM))
            seen += "#" if ran else "."
    assert set(seen) == {"#", "."}
    assert step_mask([values], steps, CacheLevel(0.2, 3, 0.2)) == seen[:-1] + "#"


@given(
    values=st.lists(st.floats(0.5, 1.5), min_size=2, max_size=60),
    steps=st.integers(2, 100),
    split=st.none() | st.integers(0, 100),
    error=st.floats(0, 1),
    skips=st.integers(0, 8),
    warm_up=st.floats(0, 1),
    forced=st.sets(st.integers(0, 100), max_size=4),
)
def test_what_is_always_computed(
    values: list[float], steps: int, split: int | None, error: float, skips: int, warm_up: float, forced: set[int]
) -> None:
    split = None if split is None else min(split, steps)
    mask = step_mask([values], steps, CacheLevel(error, skips, warm_up), split, forced)
    first = steps if split is None else split
    kept = {0, steps - 1, *range(int(warm_up * first)), *forced}
    if split is not None:
        kept |= {split, *range(split, split + int(warm_up * (steps - split)))}
    assert len(mask) == steps and all(mask[step] == "#" for step in kept if step < steps)
    assert "." * (skips + 1) not in mask


def test_two_lists_skip_only_what_both_allow() -> None:
    calm, wild, level = [1.0] * 10, [1.0] * 6 + [2.0] * 4, CacheLevel(0.1, 3, 0.2)
    assert step_mask([calm], 10, level) == "##...#...#"
    assert step_mask([calm, wild], 10, level) == step_mask([wild, calm], 10, level) == "##...#####"


def test_a_list_of_another_length_gives_its_nearest_entries() -> None:
    values = [float(i) for i in range(50)]
    assert [ratio_at(values, step, 50) for step in (0, 7, 49)] == [0, 7, 49]
    assert [ratio_at(values, step, 30) for step in (0, 1, 2, 28, 29)] == [0, 2, 3, 47, 49]


def test_no_lists_and_too_few_steps_are_refused() -> None:
    for values, steps in (([], 30), ([[]], 30), ([[1.0, 1.0]], 1)):
        with pytest.raises(ValueError, match="there must be one, and at least 2 steps"):
            step_mask(values, steps, CacheLevel(0.1, 2, 0.2))


@pytest.mark.parametrize("scheduler", ["UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
@pytest.mark.parametrize(("shift", "boundary"), [(12.0, 0.875), (5.0, 0.9), (3.0, 0.875)])
def test_steps_of_the_high_noise_expert(scheduler: str, shift: float, boundary: float) -> None:
    """Counted without torch as the sampler's timesteps say; Euler's schedule ends elsewhere, which may be a step."""
    unipc = scheduler.startswith("UniPC")
    own = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift} if unipc else {}
    for steps in (9, 20, 30, 40, 50):
        sampler = Sampler({"_class_name": scheduler, "shift": shift, **own}, steps)
        high, latents = 0, torch.zeros(1, 1, 1, 1)
        while not sampler.done and sampler.timestep >= 1000 * boundary:
            latents = sampler.advance(torch.zeros_like(latents), latents)
            high += 1
        assert abs(high_noise_steps(steps, shift, boundary) - high) <= (0 if unipc else 1)
    if (shift, boundary) != (3.0, 0.875):
        assert high_noise_steps(40, shift, boundary) == {12.0: 26, 5.0: 15}[shift], "as published for A14B"


def test_levels() -> None:
    assert level_of("exact", False) is None
    assert level_of("balanced", False) == CacheLevel(0.06, 2, 0.2)
    assert level_of("balanced", True) == CacheLevel(0.06, 2, 0.4)
    assert level_of("fast", False) == level_of("fast", True) == CacheLevel(0.12, 4, 0.2)
