"""Predict the memory needed to decode a clip, without decoding it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoetrope.model.codecs.autoencoder import decode_chunk, new_caches
from zoetrope.model.codecs.tiling import Tiling, spans


@dataclass(frozen=True)
class DecodeMemory:
    """Memory in bytes, independent of the number of frames, which are streamed."""

    weights: int  # of the whole autoencoder
    caches: int  # of the causal convolutions, over all tiles
    working: int  # peak of everything else, including the caches of the current tile
    tiles: int

    @property
    def device(self) -> int:
        """Return the peak on the device. With tiles, inactive caches are in host memory."""
        return self.weights + self.working

    @property
    def host(self) -> int:
        """Return the peak in host memory if the device is a GPU; otherwise this adds to `device`."""
        return self.caches if self.tiles > 1 else 0


@torch.inference_mode()
def decode_memory(
    config: Mapping[str, Any],
    height: int,
    width: int,
    tiling: Tiling | None = None,
    dtype: torch.dtype = torch.float32,
) -> DecodeMemory:
    """Predict the memory of `WanAutoencoder.decode_stream` for frames of ``height x width`` pixels.

    Runs the decoder over three latent frames (its caches do not grow after that) on the meta device, which computes
    nothing, and counts every live tensor. So weights, caches and activations are exact; workspaces of convolution
    libraries and allocator overhead are not counted. Attention is assumed to be fused.

    For Wan 2.1's and 2.2's networks at 1088 x 1920 it predicts caches of 9.9 and 7.5 GB in bfloat16, twice that in
    float32; a device peak in float32 of 41 and 48 GB, or 6.4 and 9.3 GB with tiles of 544 x 544 that overlap by 64. It
    was not checked on a GPU. A CPU needs more, because PyTorch unfolds the input of a 3-D convolution into 27 values
    each: the allocator's peak on tiny networks was 3.2 and 3.6 times ``working``, as the largest unfolded input
    explains.

    Args:
        config: configuration of an AutoencoderKLWan.

    Raises:
        ValueError: a side is not a multiple of the autoencoder's scale.
    """
    with torch.device("meta"):
        network = AutoencoderKLWan.from_config(dict(config)).eval()
    torch.nn.Module.to(network, dtype)  # diffusers' own `to` warns about real weights
    spatial = int(network.config.scale_factor_spatial)
    if height % spatial or width % spatial:
        raise ValueError(f"{width}x{height}: both sides must be multiples of {spatial}")
    rows = spans(height, tiling.tile_height if tiling else height, tiling.overlap if tiling else 0)
    columns = spans(width, tiling.tile_width if tiling else width, tiling.overlap if tiling else 0)
    tiles = len(rows) * len(columns)
    cells = (rows[0].length // spatial, columns[0].length // spatial)
    caches = new_caches(network)
    live = LiveBytes()
    with FusedAttention(), live:
        for index in range(3):
            z = torch.empty(1, network.config.z_dim, 1, *cells, device="meta", dtype=dtype)
            decode_chunk(network, z, caches, first=index == 0).clamp(-1, 1)
    working = live.peak
    if tiles > 1:  # the chunk in which tiles are blended
        working += 3 * int(network.config.scale_factor_temporal) * height * width * 4
    held = sum(cache.nbytes for cache in caches if isinstance(cache, torch.Tensor))
    weights = sum(parameter.nbytes for parameter in network.parameters())
    return DecodeMemory(weights, held * tiles, working, tiles)


class FusedAttention(TorchFunctionMode):
    """Keeps the meta device from materialising the attention matrix, which a fused kernel never does."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):
    """Tracks the peak bytes of live tensors created inside the context. Views count once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given:
                    self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result
