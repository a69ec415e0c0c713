"""Rebuild the decoder of an AutoencoderKLWan for a GPU: 16-bit, channels last, fewer passes over memory.

The arithmetic is that of diffusers' modules with the same weights. What bfloat16 would harm most stays in float32:
sums of convolutions (inside the kernels), norms and the attention's softmax; only what is written to memory is rounded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    DupUp3D,
    WanCausalConv3d,
    WanRMS_norm,
    WanUpsample,
)
from torch import nn

TINY = 1e-24  # added to a mean square, which only a vector of zeros notices


class ChannelNorm(nn.Module):
    """An RMS norm over channels, rounded once. diffusers' rounds after each of four passes."""

    def __init__(self, norm: WanRMS_norm) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.gamma.detach().flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``[B, C, ...]``."""
        return F.rms_norm(x.movedim(1, -1), self.weight.shape, self.weight, TINY).movedim(-1, 1)


class CausalConv(nn.Module):
    """A causal convolution that pads rows and columns inside its kernel. diffusers' copies the input to pad it."""

    def __init__(self, conv: WanCausalConv3d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        left, _, top, _, self.before, _ = conv._padding
        self.padding = (0, top, left)

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve ``[B, C, T, H, W]``; ``cache_x``: the last frames of the input before it, at most two."""
        missing = self.before
        if cache_x is not None and missing:
            x = torch.cat([cache_x, x], dim=2)
            missing -= cache_x.shape[2]
        if missing:
            x = F.pad(x, (0, 0, 0, 0, missing, 0))
        return F.conv3d(x, self.weight, self.bias, padding=self.padding)


class Duplicate(nn.Module):
    """The shortcut of an upsampling block, which repeats values; it keeps channels last."""

    def __init__(self, shortcut: DupUp3D) -> None:
        super().__init__()
        self.channels, self.time, self.space = shortcut.out_channels, shortcut.factor_t, shortcut.factor_s
        self.repeats = shortcut.repeats

    def forward(self, x: torch.Tensor, first_chunk: bool = False) -> torch.Tensor:
        """``[B, C, T, H, W]`` -> ``[B, channels, time * T, space * H, space * W]``, ``time - 1`` frames fewer first."""
        b, _, t, h, w = x.shape
        y = x.movedim(1, -1).repeat_interleave(self.repeats, dim=-1)
        y = y.view(b, t, h, w, self.channels, self.time, self.space, self.space).permute(0, 1, 5, 2, 6, 3, 7, 4)
        y = y.reshape(b, t * self.time, h * self.space, w * self.space, self.channels).movedim(-1, 1)
        return y[:, :, self.time - 1 :] if first_chunk else y


def rebuild(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Replace submodules of a decoder by the ones above, and its parameters by ``dtype`` in the channels-last format.

    Args:
        module: a `WanDecoder3d`, or one convolution of the autoencoder; what is not replaced is changed in place.
    """
    module = _rebuilt(module)
    for parameter in module.parameters():
        layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(parameter.ndim, torch.contiguous_format)
        parameter.data = parameter.data.to(dtype).contiguous(memory_format=layout)
    return module


def _rebuilt(module: nn.Module) -> nn.Module:
    match module:
        case WanRMS_norm():
            return ChannelNorm(module)
        case WanCausalConv3d():
            return CausalConv(module)
        case DupUp3D():
            return Duplicate(module)
        case WanUpsample():  # it converts to float32 and back, though it only copies values
            return nn.Upsample(scale_factor=module.scale_factor, mode=module.mode)
    for name, child in module.named_children():
        setattr(module, name, _rebuilt(child))
    return module
