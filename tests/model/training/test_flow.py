"""The loss of flow matching: ragged batches, known frames, noise levels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.model.training.toys import CONFIG, network
from zoetrope.model.denoising.conditions import Conditions, Source
from zoetrope.model.training.flow import draw_levels, flow_loss

SHAPES = ((1, 4, 4), (3, 4, 6), (2, 6, 4))


def clips() -> tuple[list[torch.Tensor], list[Conditions], torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    clean = [draw(CONFIG.in_channels, *shape) for shape in SHAPES]
    conditions = [Conditions(draw(5 + i, CONFIG.text_dim)) for i in range(len(SHAPES))]
    conditions[1] = replace(conditions[1], known=clean[1], known_frames=torch.tensor([True, False, False]))
    conditions[2] = replace(
        conditions[2], sources=(Source(draw(4, 1, 4, 4), 1),), ending=draw(CONFIG.in_channels, 1, 6, 4)
    )
    return clean, conditions, torch.tensor([0.2, 0.6, 0.9]), [draw(*x.shape) for x in clean]


def test_a_ragged_batch_costs_what_its_clips_cost_alone() -> None:
    transformer = network()
    clean, conditions, sigmas, noise = clips()
    together = flow_loss(transformer, clean, conditions, sigmas, noise)
    alone = [
        flow_loss(transformer, [clean[i]], [conditions[i]], sigmas[i : i + 1], [noise[i]]) for i in range(len(clean))
    ]
    counted = torch.tensor([4 * 1 * 16, 4 * 2 * 24, 4 * 2 * 24])  # two of the second clip's three frames
    expected = (torch.stack(alone) * counted).sum() / counted.sum()
    assert together.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len({round(x.item(), 4) for x in alone}) == 3


def test_known_frames_are_given_clean_and_cost_nothing() -> None:
    transformer = network()
    all_clean, all_conditions, all_sigmas, all_noise = clips()
    clean, conditions, sigmas, noise = all_clean[1:2], all_conditions[1:2], all_sigmas[1:2], all_noise[1:2]
    loss = flow_loss(transformer, clean, conditions, sigmas, noise)
    other = noise[0].clone()
    other[:, 0] += 5.0
    assert flow_loss(transformer, clean, conditions, sigmas, [other]).item() == loss.item()
    assert float(flow_loss(transformer, clean, [Conditions(conditions[0].positive)], sigmas, noise)) != float(loss)
    every = replace(conditions[0], known_frames=torch.ones(3, dtype=torch.bool))
    nothing = flow_loss(transformer, clean, [every], sigmas, noise)
    nothing.backward()
    assert nothing.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in transformer.parameters())


def test_the_exact_velocity_costs_nothing() -> None:
    """A network that always answers zero, asked where noise and clip are equal."""
    transformer = network()
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    clean, conditions, sigmas, _ = clips()
    assert float(flow_loss(transformer, clean, conditions, sigmas, clean)) == 0
    shifted = [x + 2.0 for x in clean]
    assert float(flow_loss(transformer, clean, conditions, sigmas, shifted)) == pytest.approx(4.0)


def test_levels_are_shifted_and_stay_between_two() -> None:
    generator = torch.Generator().manual_seed(1)
    plain = draw_levels(20_000, 1.0, generator)
    assert float(plain.mean()) == pytest.approx(0.5, abs=0.01)
    high = draw_levels(20_000, 5.0, generator)
    assert float((high > 5 / 6).float().mean()) == pytest.approx(0.5, abs=0.02)  # 0.5 becomes 5 / 6
    assert 0 <= float(high.min()) < 0.1 < 0.99 < float(high.max()) <= 1
    upper = draw_levels(20_000, 5.0, generator, (0.875, 1.0))
    assert 0.875 <= float(upper.min()) < 0.88 < 0.99 < float(upper.max()) <= 1
    # As often as among the unrestricted ones.
    among = high[high >= 0.875]
    assert float((among > 0.95).float().mean()) == pytest.approx(float((upper > 0.95).float().mean()), abs=0.02)
    lower = draw_levels(20_000, 5.0, generator, (0.0, 0.875))
    assert float(lower.max()) <= 0.8751
