"""Packing loses nothing, and positions are Wan's."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from zoetrope.model.network.sequences import (
    Sequence,
    Stream,
    pack,
    patchify,
    unpack_targets,
    unpatchify,
)

grids = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
patches = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2))


def stream(grid: tuple[int, int, int], patch: tuple[int, int, int], level: float, source_id: int = 0) -> Stream:
    t, h, w = (g * p for g, p in zip(grid, patch, strict=True))
    return Stream(torch.randn(3, t, h, w), torch.full((t,), level), source_id)


def as_output(tokens: torch.Tensor, volume: int) -> torch.Tensor:
    """Input tokens have the channel first, the network's output has it last."""
    output: torch.Tensor = tokens.unflatten(1, (-1, volume)).transpose(1, 2).flatten(1)
    return output


@given(grids, patches)
@settings(deadline=None, max_examples=draws(30))
def test_patches_go_back_where_they_came_from(grid: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    latents = stream(grid, patch, 0).latents
    tokens = patchify(latents, patch)
    assert tokens.shape == (grid[0] * grid[1] * grid[2], 3 * patch[0] * patch[1] * patch[2])
    assert torch.equal(unpatchify(as_output(tokens, patch[0] * patch[1] * patch[2]), grid, patch), latents)


def test_a_patch_has_the_order_of_a_convolution() -> None:
    conv = torch.nn.Conv3d(3, 8, kernel_size=(1, 2, 2), stride=(1, 2, 2))
    latents = torch.randn(3, 2, 6, 4)
    expected = conv(latents[None])[0].flatten(1).T
    ours = torch.nn.functional.linear(patchify(latents, (1, 2, 2)), conv.weight.flatten(1), conv.bias)
    assert torch.allclose(ours, expected, atol=1e-5)


@given(st.lists(st.tuples(st.lists(grids, min_size=1, max_size=3), st.integers(1, 7)), min_size=1, max_size=4), patches)
@settings(deadline=None, max_examples=draws(30))
def test_targets_come_back_out_of_a_packed_batch(
    shapes: list[tuple[list[tuple[int, int, int]], int]], patch: tuple[int, int, int]
) -> None:
    sequences = []
    for number, (streams, words) in enumerate(shapes):
        sources = [stream(grid, patch, 0.0, 1 + i) for i, grid in enumerate(streams[:-1])]
        target = stream(streams[-1], patch, 100.0 + number)
        sequences.append(Sequence((*sources, target), torch.randn(words, 5)))
    batch = pack(sequences, patch, head_dim=12)

    lengths = [sum(t * h * w for t, h, w in streams) for streams, _ in shapes]
    assert batch.cu_tokens.lengths == tuple(lengths)
    assert batch.cu_text.lengths == tuple(words for _, words in shapes)
    assert len(batch.tokens) == len(batch.cos) == len(batch.sin) == len(batch.noise_row) == sum(lengths)
    assert torch.equal(batch.text, torch.cat([s.text for s in sequences]))
    output = as_output(batch.tokens, patch[0] * patch[1] * patch[2])
    for sequence, clip in zip(sequences, unpack_targets(output, batch, patch), strict=True):
        assert torch.equal(clip, sequence.target.latents)
    levels = batch.timesteps[batch.noise_row]
    for number, (streams, _) in enumerate(shapes):
        end = batch.cu_tokens.offsets[number + 1]
        own = levels[batch.cu_tokens.offsets[number] : end]
        t, h, w = streams[-1]
        assert bool((own[: -t * h * w] == 0).all())
        assert bool((own[-t * h * w :] == 100 + number).all())


def test_every_latent_frame_has_its_own_noise_level() -> None:
    levels = torch.tensor([0.0, 500.0, 500.0, 0.0])
    batch = pack([Sequence((Stream(torch.randn(2, 4, 4, 2), levels),), torch.zeros(1, 3))], (1, 2, 2), 12)
    assert batch.timesteps.tolist() == [0, 500]
    assert torch.equal(batch.timesteps[batch.noise_row], levels.repeat_interleave(2))


@pytest.mark.parametrize("head_dim", [24, 64, 128])
@given(grids)
@settings(deadline=None, max_examples=draws(10))
def test_angles_of_the_target_are_those_of_diffusers(head_dim: int, grid: tuple[int, int, int]) -> None:
    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), max_seq_len=16)
    cos, sin = theirs(torch.zeros(1, 1, grid[0], 2 * grid[1], 2 * grid[2]))
    batch = pack([Sequence((stream(grid, (1, 2, 2), 5.0),), torch.zeros(1, 3))], (1, 2, 2), head_dim)
    assert torch.allclose(batch.cos, cos[0, :, 0, ::2].float(), atol=1e-7)
    assert torch.allclose(batch.sin, sin[0, :, 0, 1::2].float(), atol=1e-7)


def angles_of(grid: tuple[int, int, int], source_id: int, head_dim: int) -> torch.Tensor:
    """In float64, from the definition: for each token, along time, height and width, and for the whole head."""
    side = 2 * (head_dim // 6)

    def freqs(dim: int) -> torch.Tensor:
        return 10_000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)

    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid))
    dims = (head_dim - 2 * side, side, side)
    parts = [places[:, axis, None] * freqs(dim) for axis, dim in enumerate(dims)]
    return torch.cat(parts, dim=1) + source_id * freqs(head_dim)


@pytest.mark.parametrize("head_dim", [12, 24, 64, 128])
def test_positions_are_those_of_every_angle_worked_out_bit_for_bit(head_dim: int) -> None:
    sources = [stream((2, 3, 5), (1, 2, 2), 0.0, 2), stream((1, 7, 4), (1, 2, 2), 0.0, 1)]
    first = Sequence((*sources, stream((3, 5, 4), (1, 2, 2), 5.0)), torch.zeros(1, 3))
    second = Sequence((sources[0], stream((21, 17, 30), (1, 2, 2), 7.0)), torch.zeros(1, 3))
    batch = pack([first, first, second], (1, 2, 2), head_dim)
    one = [((2, 3, 5), 2), ((1, 7, 4), 1), ((3, 5, 4), 0)]
    angles = torch.cat([angles_of(*at, head_dim) for at in (*one, *one, ((2, 3, 5), 2), ((21, 17, 30), 0))])
    assert batch.cos.dtype == batch.sin.dtype == torch.float32
    assert torch.equal(batch.cos, angles.cos().float())
    assert torch.equal(batch.sin, angles.sin().float())


def test_positions_that_inference_asked_for_first_serve_training_too() -> None:
    clip = Sequence((stream((2, 3, 3), (1, 2, 2), 5.0, 3),), torch.zeros(1, 3))
    with torch.inference_mode():
        pack([clip], (1, 2, 2), 24)
    batch = pack([clip], (1, 2, 2), 24)
    weight = torch.ones(12, requires_grad=True)
    (batch.cos * weight).sum().backward()
    assert weight.grad is not None and torch.allclose(weight.grad, batch.cos.sum(0))


@pytest.mark.parametrize(
    ("latents", "timesteps", "message"),
    [((3, 2, 5, 4), 2, "divide"), ((3, 2, 4, 5), 2, "divide"), ((3, 2, 4, 4), 3, "timesteps")],
)
def test_streams_that_do_not_fit_are_refused(latents: tuple[int, ...], timesteps: int, message: str) -> None:
    sequence = Sequence((Stream(torch.zeros(latents), torch.zeros(timesteps)),), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=message):
        pack([sequence], (1, 2, 2), 12)
