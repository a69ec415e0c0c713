"""Costs against the published figures of the family: parameters, tokens, FLOPs and bytes."""

from __future__ import annotations

import pytest

from zoetrope.model.families import PRESETS
from zoetrope.model.families.wan import WAN21_VAE, WAN22_VAE
from zoetrope.model.network.costs import (
    clip_cost,
    count_parameters,
    frames_of,
    network_shapes,
    rank_memory,
    tokens_of,
)
from zoetrope.model.request.sizes import SIZES

# Billions, in total and for each token.
PARAMETERS = {
    "wan2.1-t2v-1.3b": (1.419, 1.419),
    "wan2.2-ti2v-5b": (5.000, 5.000),
    "wan2.1-t2v-14b": (14.288, 14.288),
    "wan2.2-t2v-a14b": (14.288, 14.288),
    "wan2.2-i2v-a14b": (14.289, 14.289),
    "wan2.1-i2v-14b-720p": (16.395, 16.395),
    "wan2.1-vace-14b": (17.338, 17.338),
    "wan2.1-vace-1.3b": (2.154, 2.154),
    "wan2.7-27b": (27.21, 5.01),
    "wan2.7-27b-wide": (27.04, 14.30),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    total, active = PARAMETERS[name]
    digits = 3 if total < 20 else 2
    count = count_parameters(PRESETS[name].config)
    assert round(count.total / 1e9, digits) == total
    assert round(count.active / 1e9, digits) == active


def test_positions_of_image_tokens_are_the_only_difference_of_flf2v() -> None:
    flf, i2v = (network_shapes(PRESETS[f"wan2.1-{name}"].config) for name in ("flf2v-14b", "i2v-14b-720p"))
    assert flf.keys() - i2v.keys() == {"condition_embedder.image_embedder.pos_embed"}


# Thousands of tokens of 2, 5 and 15 seconds.
TOKENS = {
    ("wan2.1-t2v-14b", "480p"): (14.0, 32.8, 95.2),
    ("wan2.1-t2v-14b", "720p"): (32.4, 75.6, 219.6),
    ("wan2.1-t2v-14b", "1080p"): (73.4, 171.4, 497.8),
    ("wan2.2-ti2v-5b", "480p"): (5.1, 12.1, 35.5),
    ("wan2.2-ti2v-5b", "720p"): (12.0, 28.5, 83.7),
    ("wan2.2-ti2v-5b", "1080p"): (26.5, 63.2, 185.6),
}


@pytest.mark.parametrize(("name", "size"), TOKENS)
def test_tokens(name: str, size: str) -> None:
    preset = PRESETS[name]
    width, height = SIZES[size]["16:9"]
    counts = [
        tokens_of(width, height, frames_of(seconds, preset.sampling.fps), preset.vae, preset.config.patch_size)
        for seconds in (2, 5, 15)
    ]
    assert tuple(round(count / 1e3, 1) for count in counts) == TOKENS[name, size]


def test_frames_are_one_modulo_four() -> None:
    assert [frames_of(s, 16) for s in (2, 5, 15)] == [33, 81, 241]
    assert [frames_of(s, 24) for s in (2, 5, 15)] == [49, 121, 361]
    assert tokens_of(832, 480, 1, WAN21_VAE, (1, 2, 2)) == 1560
    assert tokens_of(40, 40, 5, WAN22_VAE, (2, 2, 2)) == 4


@pytest.mark.parametrize(("name", "giga"), [("wan2.1-t2v-14b", 23.91), ("wan2.2-ti2v-5b", 8.68), ("wan2.7-27b", 8.68)])
def test_flops_of_a_token(name: str, giga: float) -> None:
    config = PRESETS[name].config
    assert config.forward_cost(1000).products / 1000 == pytest.approx(giga * 1e9, rel=0.003)
    kilo = {"wan2.1-t2v-14b": 819e3}.get(name, 369e3)
    assert config.forward_cost(1000).attention / 1000**2 == pytest.approx(kilo, rel=0.002)


@pytest.mark.parametrize(
    ("name", "size", "seconds", "fps", "expected"),
    [
        ("wan2.1-t2v-14b", "480p", 5, 16, 2.1),
        ("wan2.1-t2v-14b", "720p", 5, 16, 8.1),
        ("wan2.1-t2v-14b", "1080p", 5, 24, 73.0),
        ("wan2.7-27b", "480p", 5, 16, 0.12),
        ("wan2.7-27b", "720p", 5, 16, 0.38),
        ("wan2.7-27b", "1080p", 5, 24, 2.5),
        ("wan2.7-27b", "1080p", 15, 24, 17.9),
    ],
)
def test_seconds_of_a_forward_at_800_teraflops(name: str, size: str, seconds: float, fps: int, expected: float) -> None:
    preset = PRESETS[name]
    tokens = tokens_of(*SIZES[size]["16:9"], frames_of(seconds, fps), preset.vae, preset.config.patch_size)
    assert preset.config.forward_cost(tokens).total / 800e12 == pytest.approx(expected, rel=0.03)


def test_hint_blocks_and_image_channels_cost_more() -> None:
    plain = PRESETS["wan2.1-t2v-14b"].config.forward_cost(1000)
    hinted = PRESETS["wan2.1-vace-14b"].config.forward_cost(1000)
    assert hinted.attention / plain.attention == pytest.approx(48 / 40)
    assert hinted.products / plain.products == pytest.approx(48 / 40, rel=0.02)
    assert PRESETS["wan2.2-i2v-a14b"].config.forward_cost(1000).products > plain.products


def test_experts_are_spread_over_the_ranks_and_all_else_is_not() -> None:
    config = PRESETS["wan2.7-27b"].config
    one, eight = (rank_memory(config, 28_520, ranks) for ranks in (1, 8))
    assert 54e9 < one.weights < 57e9
    experts = count_parameters(config).experts
    assert one.weights - eight.weights == pytest.approx(experts * 2 * 7 / 8, rel=1e-6)
    assert one.activations == pytest.approx(8 * eight.activations, rel=1e-3)
    dense = PRESETS["wan2.1-t2v-14b"].config
    assert rank_memory(dense, 1000, 8).weights == rank_memory(dense, 1000, 1).weights
    assert rank_memory(dense, 1000, 1, transformers=2).weights == 2 * rank_memory(dense, 1000, 1).weights


def test_ranks_must_divide_the_heads_and_the_experts() -> None:
    with pytest.raises(ValueError, match="8 ranks do not divide 12 heads"):
        rank_memory(PRESETS["wan2.1-t2v-1.3b"].config, 1000, 8)
    with pytest.raises(ValueError, match="3 ranks do not divide 24 heads and 80 experts"):
        rank_memory(PRESETS["wan2.7-27b"].config, 1000, 3)


def test_a_step_is_all_guidance_branches() -> None:
    preset = PRESETS["wan2.7-27b"]
    cost = clip_cost(preset, 1280, 720, 5, 8)
    assert (cost.frames, cost.tokens, cost.forwards) == (121, 27_280, 2)
    assert cost.step_flops == 2 * preset.config.forward_cost(27_280).total
    assert cost.memory == rank_memory(preset.config, 2 * 27_280, 8)
