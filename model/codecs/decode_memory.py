"""Predict the memory that one tile needs, from a run of the decoder that computes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoetrope.model.codecs.chunk_decoder import ChunkDecoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


@dataclass(frozen=True)
class TileMemory:
    """Memory of a tile, or of a whole frame, in bytes; independent of the number of frames, which are streamed.

    Attributes:
        weights: of the decoder.
        working: peak of everything else, including the tile's caches.
        caches: of the causal convolutions, after the second latent frame and later.
        first_caches: after the first one.
        elements: of the largest tensor.
    """

    weights: int
    working: int
    caches: int
    first_caches: int
    elements: int


def tile_memory(config: Mapping[str, Any], height: int, width: int, dtype: torch.dtype = torch.float32) -> TileMemory:
    """Predict the memory to decode ``height x width`` pixels.

    Runs the decoder over three latent frames (its caches do not grow after that) on the meta device and counts every
    live tensor. So weights, caches and activations are exact; workspaces of convolution libraries and allocator
    overhead are not counted. Attention and norms are assumed to be fused.

    It was not checked on a GPU. A CPU needs more, because PyTorch unfolds the input of a 3-D convolution into 27 values
    each: the allocator's peak on tiny networks was 3.2 and 3.6 times ``working``, as the largest unfolded input
    explains.

    Args:
        config: configuration of an AutoencoderKLWan.

    Raises:
        ValueError: a side is not a multiple of the autoencoder's scale.
    """
    return _tile_memory(json.dumps(dict(config), sort_keys=True, default=str), height, width, dtype)


@lru_cache(maxsize=64)
@torch.inference_mode()
def _tile_memory(config: str, height: int, width: int, dtype: torch.dtype) -> TileMemory:
    network = empty_network(json.loads(config))
    spatial, z_dim = int(network.config.scale_factor_spatial), int(network.config.z_dim)
    if height % spatial or width % spatial:
        raise ValueError(f"{width}x{height}: both sides must be multiples of {spatial}")
    decoder = ChunkDecoder.of(network, dtype)
    caches, sizes, live = decoder.new_caches(), [], LiveBytes()
    with FusedKernels(), live:
        for index in range(3):
            z = torch.empty(z_dim, 1, height // spatial, width // spatial, device="meta")
            decoder.decode(z, caches, first=index == 0).float().clamp(-1, 1)
            sizes.append(cache_bytes(caches))
    return TileMemory(decoder.weight_bytes, live.peak, sizes[-1], sizes[0], live.elements)


def empty_network(config: Mapping[str, Any]) -> AutoencoderKLWan:
    """Return a network without weights, on the meta device; its ``config`` has all fields."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        return AutoencoderKLWan.from_config(dict(config)).eval()


def cache_bytes(caches: list[Any]) -> int:
    """Return the bytes of a tile's caches, some of which are empty or a mark."""
    return sum(cache.nbytes for cache in caches if isinstance(cache, torch.Tensor))


class FusedKernels(TorchFunctionMode):
    """Keeps the meta device from materialising what fused kernels do not: the attention matrix, a norm in float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.scaled_dot_product_attention, F.rms_norm):
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):
    """Tracks the peak bytes of live tensors created inside the context, and the elements of the largest one.

    Views count once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.elements = 0
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
                self.elements = max(self.elements, leaf.numel())
                storage = leaf.untyped_storage()
                if storage._cdata not in given:
                    self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result
