"""Flow matching (Lipman et al., 2210.02747): a network learns ``noise - clean`` at ``(1 - s) * clean + s * noise``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import unpack_targets


def shifted(u: torch.Tensor, shift: float) -> torch.Tensor:
    """Map uniform numbers of 0..1 to noise levels of 0..1; a ``shift`` above 1 favours high levels."""
    return shift * u / (1 + (shift - 1) * u)


def unshifted(level: float, shift: float) -> float:
    """Invert `shifted`."""
    return level / (shift - (shift - 1) * level)


def draw_levels(
    count: int, shift: float, generator: torch.Generator, between: tuple[float, float] = (0.0, 1.0)
) -> torch.Tensor:
    """Draw noise levels ``[count]`` float32: shifted uniform, restricted to the range ``between``."""
    u = torch.rand(count, generator=generator)
    if between != (0.0, 1.0):
        low, high = (unshifted(level, shift) for level in between)
        u = low + (high - low) * u
    return shifted(u, shift)


def flow_loss(
    transformer: Network,
    clean: Sequence[torch.Tensor],
    conditions: Sequence[Conditions],
    sigmas: torch.Tensor,
    noise: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Return the mean squared error of the velocity over all elements of all clips, except known frames.

    All clips share one packed forward pass, on a GPU in bfloat16 where autocast allows it. If every frame of every clip
    is known (a picture that is its own first frame), the loss and the gradients are zero.

    Args:
        clean, noise: a tensor ``[C, T, H, W]`` for each clip; the clips may differ in T, H and W.
        conditions: of each clip; only the branch with the prompt and all sources is trained.
        sigmas: ``[clips]``, noise levels of 0..1.

    Raises:
        ValueError: the network cannot take the conditions.
    """
    device = transformer.device
    sequences = []
    for x, given, s, e in zip(clean, conditions, sigmas, noise, strict=True):
        noisy = ((1 - s) * x + s * e).to(device)
        there = given.to(device)
        sequences.append(there.sequence(noisy, 1000 * float(s), there.positive))
    batch = transformer.pack(sequences)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        output = transformer(batch)
    errors = []
    outputs = unpack_targets(output.float(), batch, transformer.config.patch_size)
    for predicted, x, given, e in zip(outputs, clean, conditions, noise, strict=True):
        # With an ending the target is longer than the clip.
        error = (predicted[:, : x.shape[1]] - (e - x).to(device)).square()
        if given.known_frames is not None:
            error = error[:, ~given.known_frames.to(device)]
        errors.append(error.flatten())
    every = torch.cat(errors)
    return every.mean() if every.numel() else every.sum()  # the mean of an empty tensor is NaN
