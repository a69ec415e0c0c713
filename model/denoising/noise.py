"""Draw a segment's noise from its own generator, on the CPU so that a seed means the same everywhere."""

from __future__ import annotations

import torch

STATE_BYTES = torch.Generator("cpu").get_state().numel()  # of a generator: 5,056


def noise_generator(seed: int) -> torch.Generator:
    """Return the generator of a segment. Its first draw is the noise that the segment starts from; samplers that add
    noise take the following ones, one for each step but the last."""
    return torch.Generator("cpu").manual_seed(seed)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Draw noise of one clip: ``[C, T, H, W]`` float32, as diffusers' pipelines draw it for a batch of one."""
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32)[0]


def restored_generator(state: torch.Tensor) -> torch.Generator:
    """Return a generator that goes on from a state ``[5056]`` uint8.

    Raises:
        ValueError: the bytes are no state of a generator.
    """
    generator = torch.Generator("cpu")
    try:
        generator.set_state(state.cpu().contiguous())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the state of the generator is malformed: {' '.join(str(error).split())[:200]}") from None
    return generator
