"""Whatever shares a batch, each result is the one computed alone: all tasks, sizes, steps and text lengths mixed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoetrope.model.denoising.conditions import Conditions, Source, blank_conditions
from zoetrope.model.denoising.denoise import Denoiser, Segment
from zoetrope.model.denoising.guidance import Mode
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.specs import SegmentSpec

Family = Literal["streams", "experts", "clip", "vace"]
CHANNELS, TEXT_DIM, IMAGE_DIM, HINT_CHANNELS = 4, 12, 10, 6
UNIPC: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}


@dataclass(frozen=True)
class Wish:
    """A segment to make; what of it a family has no use for is left out."""

    size: tuple[int, int, int]  # latent frames, rows and columns of tokens
    words: tuple[int, int]  # of the positive and the negative text
    steps: int
    guidance: float
    guidance_low: float | None
    mode: Mode
    known: int
    ending: bool
    sources: tuple[tuple[int, int, int], ...]
    clean_sources: bool
    clean_known: bool
    lead: int
    image: int
    seed: int


sides = st.integers(1, 3)
wishes = st.builds(
    Wish,
    size=st.tuples(st.integers(1, 3), sides, sides),
    words=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    steps=st.integers(1, 3),
    guidance=st.sampled_from([1.0, 2.0]),
    guidance_low=st.sampled_from([None, 1.5]),
    mode=st.sampled_from(["cfg", "v2v_apg", "rv2v", "r2v"]),
    known=st.integers(0, 2),
    ending=st.booleans(),
    sources=st.lists(st.tuples(st.integers(1, 2), sides, sides), max_size=3).map(tuple),
    clean_sources=st.booleans(),
    clean_known=st.booleans(),
    lead=st.integers(0, 2),
    image=st.integers(1, 4),
    seed=st.integers(0, 1000),
)


@cache
def denoiser(family: Family) -> Denoiser:
    """Two noise experts, so that segments of one step go through different networks."""
    shape: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
    }
    if family == "experts":
        shape["moe"] = MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=16, shared_dim=8)
    if family == "clip":
        shape |= {"in_channels": 2 * CHANNELS + 1, "image_dim": IMAGE_DIM, "added_kv_proj_dim": 24}
    if family == "vace":
        shape |= {"vace_layers": (0, 1), "vace_in_channels": HINT_CHANNELS}
    torch.manual_seed(0)
    high, low = (WanTransformer(TransformerConfig(**shape)).eval().requires_grad_(False) for _ in range(2))
    return Denoiser(high, UNIPC, low, boundary=0.7)


def start(family: Family, wish: Wish, name: str) -> Segment:
    generator = torch.Generator().manual_seed(wish.seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    t, h, w = wish.size[0], 2 * wish.size[1], 2 * wish.size[2]
    positive, negative = (random(words, TEXT_DIM) for words in wish.words)
    mode: Mode = "cfg"
    given: dict[str, Any] = {}
    if family in ("streams", "experts"):
        mode = wish.mode
        known = torch.arange(t) < wish.known
        given["sources"] = tuple(
            Source(random(CHANNELS, frames, 2 * rows, 2 * columns), 1 + i, video=i == 0)
            for i, (frames, rows, columns) in enumerate(wish.sources)
        )
        given |= {"known": random(CHANNELS, t, h, w), "known_frames": known} if wish.known else {}
        given |= {"ending": random(CHANNELS, 1, h, w)} if wish.ending else {}
        given |= {"clean_sources": wish.clean_sources, "clean_known": wish.clean_known}
    if family == "clip":
        given = {"channels": random(CHANNELS + 1, t, h, w), "image": random(wish.image, IMAGE_DIM)}
    if family == "vace":
        hints = random(HINT_CHANNELS, wish.lead + t, h, w)
        given = {"hints": hints, "hint_scales": (1.0, 0.1 * wish.image), "lead": wish.lead}
    spec = SegmentSpec(name, (CHANNELS, t, h, w), wish.steps, wish.guidance, wish.seed, wish.guidance_low)
    return denoiser(family).start(spec, Conditions(positive, negative, guidance=mode, **given))


def finish(family: Family, segments: list[Segment]) -> list[torch.Tensor]:
    while running := [segment for segment in segments if not segment.sampler.done]:
        denoiser(family).step(running)
    return [segment.result() for segment in segments]


@pytest.mark.parametrize("family", ["streams", "experts", "clip", "vace"])
@given(mix=st.lists(wishes, min_size=2, max_size=6))
@settings(deadline=None, max_examples=8, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_each_result_is_the_one_computed_alone(family: Family, mix: list[Wish]) -> None:
    together = finish(family, [start(family, wish, str(i)) for i, wish in enumerate(mix)])
    for wish, result in zip(mix, together, strict=True):
        (alone,) = finish(family, [start(family, wish, "alone")])
        assert result.shape == (CHANNELS, wish.size[0], 2 * wish.size[1], 2 * wish.size[2])
        assert bool(result.isfinite().all())
        assert float((result - alone).norm()) <= 1e-5 * float(alone.norm())


@pytest.mark.parametrize("family", ["streams", "experts", "clip", "vace"])
def test_a_network_runs_on_blanks(family: Family) -> None:
    shape = (CHANNELS, 1, 2, 2)
    conditions = blank_conditions(denoiser(family).transformer.config, shape, torch.zeros(2, TEXT_DIM))
    segment = denoiser(family).start(SegmentSpec("warm-up", shape, 1, 1.0, 0), conditions)
    assert denoiser(family).step([segment]) == 1
    assert segment.result().shape == shape and bool(segment.result().isfinite().all())


def test_known_frames_that_are_not_clean_are_on_the_way_from_the_noise() -> None:
    torch.manual_seed(0)
    known, noise, latents = (torch.randn(CHANNELS, 3, 2, 2) for _ in range(3))
    mask = torch.tensor([True, True, False])
    text = torch.zeros(1, TEXT_DIM)
    conditions = Conditions(text, known=known, known_frames=mask, clean_known=False)
    target = conditions.sequence(latents, 250.0, text, noise=noise).target
    assert target.timesteps.tolist() == [250, 250, 250]
    assert torch.allclose(target.latents[:, :2], 0.75 * known[:, :2] + 0.25 * noise[:, :2])
    assert torch.equal(target.latents[:, 2], latents[:, 2])
    assert torch.equal(conditions.finish(latents)[:, :2], known[:, :2])
    with pytest.raises(ValueError, match="noise"):
        conditions.sequence(latents, 250.0, text)


def test_sequences_with_and_without_image_tokens_do_not_mix() -> None:
    network = denoiser("clip").transformer
    latents, text = torch.zeros(CHANNELS, 1, 2, 2), torch.zeros(3, TEXT_DIM)
    full = Conditions(text, channels=torch.zeros(CHANNELS + 1, 1, 2, 2), image=torch.zeros(2, IMAGE_DIM))
    bare = Conditions(text, channels=full.channels)
    with pytest.raises(ValueError, match="needs image tokens in each sequence"):
        network.pack([full.sequence(latents, 1.0, text), bare.sequence(latents, 1.0, text)])
    with pytest.raises(ValueError, match="takes none"):
        denoiser("streams").transformer.pack(
            [Conditions(text, image=torch.zeros(2, IMAGE_DIM)).sequence(latents, 1.0, text)]
        )


def test_a_network_of_hints_refuses_what_has_none_or_another_size() -> None:
    network = denoiser("vace").transformer
    latents, text = torch.zeros(CHANNELS, 2, 2, 2), torch.zeros(3, TEXT_DIM)
    with pytest.raises(ValueError, match="needs hints"):
        network.pack([Conditions(text).sequence(latents, 1.0, text)])
    short = Conditions(text, hints=torch.zeros(HINT_CHANNELS, 1, 2, 2), hint_scales=(1.0, 1.0))
    with pytest.raises(ValueError, match="hints of"):
        network.pack([short.sequence(latents, 1.0, text)])


def test_another_number_of_channels_is_refused() -> None:
    text = torch.zeros(3, TEXT_DIM)
    with pytest.raises(ValueError, match="a stream has 4 channels, this network 9"):
        image = Conditions(text, image=torch.zeros(2, IMAGE_DIM))
        denoiser("clip").transformer.pack([image.sequence(torch.zeros(CHANNELS, 1, 2, 2), 1.0, text)])
