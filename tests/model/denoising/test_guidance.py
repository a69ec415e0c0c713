"""Guidance against straight-line code from the formulas, and Bernini-R's forward against one of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel

from tests.fixtures.random_checkpoints import scattered
from tests.fixtures.transformer_shape import TEXT_DIM, TRANSFORMER
from tests.model.parity.harness import same_as
from zoetrope.model.denoising.conditions import Conditions, Source
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.denoising.guidance import (
    Mode,
    Scales,
    bernini_mode,
    branches,
    combine,
    effective,
    scales,
    uses_negative,
    with_prefix,
)
from zoetrope.model.network.sequences import unpack_targets
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.specs import SegmentSpec

THETA = 10_000.0
HEAD = int(TRANSFORMER["attention_head_dim"])
HEADS = int(TRANSFORMER["num_attention_heads"])


def velocities(count: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(4, 3, 6, 8) * (2 + i) for i in range(count)]


def test_classifier_free_guidance_goes_beyond_the_positive_text() -> None:
    positive, negative = velocities(2)
    expected = negative + 3.5 * (positive - negative)
    for mode in ("cfg", "t2v", "v2v"):
        assert torch.equal(combine(mode, [positive, negative], positive, 0.5, Scales(3.5)), expected)
    assert combine("none", [positive], negative, 0.5, Scales(3.5)) is positive


def test_edits_with_references_go_from_stream_to_stream_to_text() -> None:
    bare, video, everything, text = velocities(4)
    result = combine("rv2v", [bare, video, everything, text], bare, 0.5, Scales(4.0, 4.5, 1.25))
    expected = bare + 1.25 * (video - bare) + 4.5 * (everything - video) + 4.0 * (text - everything)
    assert torch.allclose(result, expected, rtol=0, atol=1e-4)


def apg(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Frame by frame, with vectors: shorten to 50, halve what points along the guided prediction."""
    out = torch.zeros_like(after)
    for t in range(after.shape[1]):
        base = after[:, t].flatten()
        difference = (after - before)[:, t].flatten()
        length = math.sqrt(float(difference @ difference))
        if length > 50:
            difference = difference * 50 / length
        along = (difference @ base) / (base @ base) * base
        out[:, t] = (difference - along + 0.5 * along).reshape(out[:, t].shape)
    return out


@pytest.mark.parametrize("size", [1.0, 8.0], ids=["short", "cut"])
def test_references_alone_are_followed_by_projected_guidance(size: float) -> None:
    bare, images, text = (size * v for v in velocities(3))
    noisy, sigma = torch.randn(4, 3, 6, 8), 0.7
    clean = [noisy.double() - sigma * v.double() for v in (bare, images, text)]
    longest = max(float((clean[1] - clean[0])[:, t].norm()) for t in range(3))
    assert (longest > 50) == (size == 8.0)
    guided = clean[0] + 4.5 * apg(clean[1], clean[0]) + 4.0 * apg(clean[2], clean[1])
    result = combine("r2v", [bare, images, text], noisy, sigma, Scales(4.0, 4.5))
    assert torch.allclose(noisy.double() - sigma * result.double(), guided, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["t2v_apg", "v2v_apg"])
def test_projected_guidance_of_one_step(mode: Mode) -> None:
    negative, positive = velocities(2)
    noisy, sigma = torch.randn(4, 3, 6, 8), 0.4
    base, text = (noisy.double() - sigma * v.double() for v in (negative, positive))
    result = combine(mode, [negative, positive], noisy, sigma, Scales(4.0))
    expected = base + 4.0 * apg(text, base)
    assert [b.positive for b in branches(mode)] == [False, True]
    assert torch.allclose(noisy.double() - sigma * result.double(), expected, rtol=0, atol=1e-4)


def test_weights_of_the_low_noise_expert() -> None:
    assert scales("cfg", 4.0, None, low_noise=True).text == 4.0
    assert scales("cfg", 4.0, 3.0, low_noise=True).text == 3.0
    assert scales("cfg", 4.0, 3.0, low_noise=False).text == 4.0
    assert scales("rv2v", 4.0, None, low_noise=False) == Scales(4.0, 4.5, 1.25)
    assert scales("rv2v", 4.0, None, low_noise=True) == Scales(4.0 * 0.8, 4.5 * 0.8, 1.25 * 0.8)
    assert scales("r2v", 4.0, 2.0, low_noise=True).text == 2.0


def test_which_branches_a_task_needs() -> None:
    assert effective("cfg", 1.0) == "none" and not uses_negative("cfg", 1.0)
    assert effective("cfg", 1.5) == "cfg" and uses_negative("cfg", 1.5)
    assert uses_negative("r2v", 1.0)
    assert [(b.streams, b.positive) for b in branches("rv2v")] == [
        ("none", False),
        ("videos", False),
        ("all", False),
        ("all", True),
    ]
    assert [(b.streams, b.positive) for b in branches("r2v")] == [("none", False), ("all", False), ("all", True)]


@pytest.mark.parametrize(
    ("kind", "references", "mode", "words"),
    [
        ("text_to_video", 0, "t2v", "specialized in text-to-video generation.a cat"),
        ("edit_video", 0, "v2v", "specialized in video editing.a cat"),
        ("edit_video", 2, "rv2v", "specialized in video editing with reference.a cat"),
        ("reference_to_video", 3, "r2v", "specialized in subject-to-video generation.a cat"),
        ("grid_to_video", 0, "r2v", "specialized in subject-to-video generation.a cat"),
    ],
)
def test_a_task_decides_guidance_and_prefix(kind: str, references: int, mode: str, words: str) -> None:
    chosen = bernini_mode(kind, references)
    assert chosen == mode
    assert with_prefix(chosen, "a cat") == f"You are a helpful assistant {words}"
    assert with_prefix("cfg", "a cat") == "a cat"


def table(length: int, dim: int) -> torch.Tensor:
    """Complex rotations ``[length, dim / 2]``."""
    angles = torch.outer(torch.arange(length).double(), 1.0 / THETA ** (torch.arange(0, dim, 2).double() / dim))
    return torch.polar(torch.ones_like(angles), angles)


def rotations(grid: tuple[int, int, int], source_id: int) -> torch.Tensor:
    """Time, height and width, times the rotation of the whole head by the source's number: ``[tokens, head / 2]``."""
    side = 2 * (HEAD // 6)
    t, h, w = table(32, HEAD - 2 * side), table(32, side), table(32, side)
    rows = [torch.cat([t[i], h[j], w[k]]) for i in range(grid[0]) for j in range(grid[1]) for k in range(grid[2])]
    return torch.stack(rows) * table(source_id + 1, HEAD)[source_id]


@torch.no_grad()
def bernini_forward(
    network: WanTransformer3DModel, streams: list[tuple[torch.Tensor, int]], text: torch.Tensor, timestep: float
) -> torch.Tensor:
    """The published forward, in float64 and without our code: all streams through the patch convolution, laid end to
    end with the target last, rotated by place and number, one timestep for all; the target's output is kept."""
    net: Any = network.double()
    tokens, rotation = [], []
    for latents, source_id in streams:
        x = net.patch_embedding(latents[None].double())
        grid = tuple(x.shape[2:])
        tokens.append(x.flatten(2).transpose(1, 2)[0])
        rotation.append(rotations(grid, source_id))
    x, turn = torch.cat(tokens), torch.cat(rotation)[:, None]

    half = net.config.freq_dim // 2
    angles = timestep * torch.exp(-math.log(10_000) * torch.arange(half).double() / half)
    embedder = net.condition_embedder
    temb = embedder.time_embedder.linear_1(torch.cat([angles.cos(), angles.sin()]))
    temb = embedder.time_embedder.linear_2(F.silu(temb))
    six = embedder.time_proj(F.silu(temb)).reshape(6, -1)
    context = embedder.text_embedder.linear_1(text.double())
    context = embedder.text_embedder.linear_2(F.gelu(context, approximate="tanh"))

    def attend(layer: Any, q_in: torch.Tensor, kv_in: torch.Tensor, turned: bool) -> Any:
        q = layer.norm_q(layer.to_q(q_in)).unflatten(1, (HEADS, HEAD))
        k = layer.norm_k(layer.to_k(kv_in)).unflatten(1, (HEADS, HEAD))
        v = layer.to_v(kv_in).unflatten(1, (HEADS, HEAD))
        if turned:
            q, k = (
                torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
                for y in (q, k)
            )
        weights = torch.einsum("nhd,mhd->hnm", q, k).div(HEAD**0.5).softmax(-1)
        return layer.to_out[0](torch.einsum("hnm,mhd->nhd", weights, v).flatten(1))

    for block in net.blocks:
        a, b, c, d, e, f = block.scale_shift_table[0] + six
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + b) + a
        x = x + attend(block.attn1, h, h, True) * c
        h = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-6)
        x = x + attend(block.attn2, h, context, False)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + e) + d
        h = F.gelu(block.ffn.net[0].proj(h), approximate="tanh")
        x = x + block.ffn.net[2](h) * f
    shift, scale = net.scale_shift_table[0] + temb
    x = net.proj_out(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
    _, t, high, wide = streams[-1][0].shape
    out: torch.Tensor = x[-t * (high // 2) * (wide // 2) :].reshape(t, high // 2, wide // 2, 2, 2, 16)
    return out.permute(5, 0, 1, 3, 2, 4).reshape(16, t, high, wide)


def networks() -> tuple[WanTransformer3DModel, WanTransformer]:
    torch.manual_seed(3)
    theirs = scattered(WanTransformer3DModel(**TRANSFORMER))
    return theirs, same_as(theirs)


def test_the_forward_with_numbered_streams_is_berninis() -> None:
    theirs, ours = networks()
    torch.manual_seed(4)
    target = torch.randn(16, 3, 4, 6)
    video, image = torch.randn(16, 3, 4, 6), torch.randn(16, 1, 6, 8)
    text = torch.randn(9, TEXT_DIM)
    conditions = Conditions(
        text, text, sources=(Source(video, 1, video=True), Source(image, 2)), clean_sources=False, guidance="rv2v"
    )
    with torch.no_grad():
        batch = ours.pack([conditions.sequence(target, 640.0, text, b.streams) for b in branches("rv2v")[:3]])
        results = unpack_targets(ours(batch), batch, (1, 2, 2))
    shown: tuple[list[tuple[torch.Tensor, int]], ...] = ([], [(video, 1)], [(video, 1), (image, 2)])
    for streams, result in zip(shown, results, strict=True):
        expected = bernini_forward(theirs, [*streams, (target, 0)], text, 640.0)
        assert float((result.double() - expected).norm() / expected.norm()) <= 1e-5
    difference = float((results[2] - results[1]).norm() / results[2].norm())
    assert difference > 1e-3, "the picture matters"


def test_a_step_of_the_denoiser_is_the_chain_of_berninis_branches() -> None:
    """Weights are 0.8 of themselves where the low-noise expert takes the step."""
    theirs, ours = networks()
    torch.manual_seed(5)
    low_theirs = scattered(WanTransformer3DModel(**TRANSFORMER))
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    denoiser = Denoiser(ours, scheduler, same_as(low_theirs), boundary=0.875)
    positive, negative = torch.randn(5, TEXT_DIM), torch.randn(7, TEXT_DIM)
    video, image = torch.randn(16, 2, 4, 4), torch.randn(16, 1, 4, 4)
    conditions = Conditions(
        positive,
        negative,
        sources=(Source(video, 1, video=True), Source(image, 2)),
        clean_sources=False,
        guidance="rv2v",
    )
    segment = denoiser.start(SegmentSpec("one", (16, 2, 4, 4), 2, 4.0, 3, kind="edit_video"), conditions)
    seen = []
    while not segment.sampler.done:
        low, t, sigma = denoiser.takes_low_noise(segment), segment.sampler.timestep, segment.sampler.sigma
        seen.append(low)
        net, factor = (low_theirs, 0.8) if low else (theirs, 1.0)
        noisy = segment.latents.double()
        target = (segment.latents, 0)
        bare = bernini_forward(net, [target], negative, t)
        eyes = bernini_forward(net, [(video, 1), target], negative, t)
        every = bernini_forward(net, [(video, 1), (image, 2), target], negative, t)
        words = bernini_forward(net, [(video, 1), (image, 2), target], positive, t)
        velocity = bare + factor * (1.25 * (eyes - bare) + 4.5 * (every - eyes) + 4.0 * (words - every))
        denoiser.step([segment])
        step = sigma - (0.0 if segment.sampler.done else segment.sampler.sigma)
        expected = noisy - step * velocity
        assert float((segment.latents.double() - expected).norm() / expected.norm()) <= 1e-5
    assert seen == [False, True]
