"""An autoencoder of principal components of pixel blocks, small enough to be fitted in seconds on a CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file

from zoetrope.model.codecs.tiling import Tiling

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


class LinearConfig(BaseModel):
    """config.json of a `LinearAutoencoder`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    z_dim: int = Field(ge=1)
    scale_factor_temporal: int = Field(default=4, ge=1)
    scale_factor_spatial: int = Field(default=8, ge=1)


class LinearAutoencoder:
    """Principal components of blocks of ``temporal x spatial x spatial`` pixels.

    The first frame is separate, as in Wan's causal autoencoder: it is encoded as a block of equal frames, so that all
    latents share one basis. ``scale`` divides the components, so that the transformer sees variances near one. The
    decoder is linear too; it sees a cell and its four spatial neighbours, which removes most seams.
    """

    CLASS_NAME = "LinearVideoAutoencoder"
    streams = 1

    def __init__(
        self, config: LinearConfig, mean: torch.Tensor, basis: torch.Tensor, scale: torch.Tensor, decoder: torch.Tensor
    ) -> None:
        self.z_dim = config.z_dim
        self.temporal = config.scale_factor_temporal
        self.spatial = config.scale_factor_spatial
        self._mean = mean.float()  # [3 * temporal * spatial^2]
        self._basis = basis.float()  # [3 * temporal * spatial^2, z_dim]
        self._scale = scale.float()  # [z_dim]
        self._decoder = decoder.float()  # [5 * z_dim + 1, 3 * temporal * spatial^2]

    @classmethod
    def fit(cls, clips: list[torch.Tensor], config: LinearConfig) -> LinearAutoencoder:
        """Fit to batches of clips ``[B, 3, F, H, W]``.

        The scale is the geometric mean between full whitening and none: the coarse components keep more weight. The
        decoder is the least-squares map from neighbouring latents back to the blocks.
        """
        blocks = [blocks_of(c, config.scale_factor_temporal, config.scale_factor_spatial) for c in clips]
        rows = torch.cat([r for r, _ in blocks])
        mean = rows.mean(0)
        centred = (rows - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
        std = values.flip(0)[: config.z_dim].clamp_min(1e-12).sqrt()
        scale = std.sqrt()
        scale = scale * (std / scale).square().mean().sqrt()
        basis = vectors.flip(1)[:, : config.z_dim]
        gram, moment = torch.zeros(()), torch.zeros(())
        for r, (b, t, h, w) in blocks:
            z = ((r - mean).double() @ basis / scale).reshape(b * t, h, w, config.z_dim)
            x = with_neighbours(z).flatten(0, 2)
            gram, moment = gram + x.T @ x, moment + x.T @ r.double()
        ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        return cls(config, mean, basis, scale, torch.linalg.solve(gram + ridge, moment))

    @classmethod
    def load(cls, directory: Path) -> LinearAutoencoder:
        config = LinearConfig.model_validate_json((directory / "config.json").read_text())
        tensors = load_file(directory / WEIGHTS_NAME)
        return cls(config, *(tensors[name] for name in ("mean", "basis", "scale", "decoder")))

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "_class_name": self.CLASS_NAME,
            "z_dim": self.z_dim,
            "scale_factor_temporal": self.temporal,
            "scale_factor_spatial": self.spatial,
        }
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {"mean": self._mean, "basis": self._basis, "scale": self._scale, "decoder": self._decoder}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS_NAME)

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """See `Autoencoder.encode`."""
        return self.encode_batch(clip[None])[0]

    def encode_batch(self, clips: torch.Tensor) -> torch.Tensor:
        """Encode ``[B, 3, F, H, W]`` to ``[B, z_dim, T, H / spatial, W / spatial]``."""
        rows, (b, t, h, w) = blocks_of(clips, self.temporal, self.spatial)
        z = (rows - self._mean) @ self._basis / self._scale
        return z.reshape(b, t, h, w, -1).permute(0, 4, 1, 2, 3).contiguous()

    def decode_stream(self, latents: torch.Tensor, tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
        """Yield one chunk per latent frame; see `model.codecs.autoencoder.Autoencoder.decode_stream`.

        A cell needs only its neighbours, so tiling would save no memory and is ignored.
        """
        for index in range(latents.shape[1]):
            z = latents[:, index].permute(1, 2, 0).float()  # [h, w, z]
            h, w = z.shape[:2]
            pixels = with_neighbours(z[None]) @ self._decoder
            x = pixels.reshape(h, w, 3, self.temporal, self.spatial, self.spatial)
            frames = x.permute(2, 3, 0, 4, 1, 5).reshape(3, self.temporal, h * self.spatial, w * self.spatial)
            yield (frames if index else frames.mean(1, keepdim=True)).clamp(-1, 1)


def with_neighbours(z: torch.Tensor) -> torch.Tensor:
    """``[n, h, w, z]`` -> ``[n, h, w, 5 * z + 1]``: each cell, its four neighbours (edges replicated) and a one."""
    rows = torch.cat([z[:, :1], z, z[:, -1:]], dim=1)
    columns = torch.cat([z[:, :, :1], z, z[:, :, -1:]], dim=2)
    parts = (z, rows[:, :-2], rows[:, 2:], columns[:, :, :-2], columns[:, :, 2:], torch.ones_like(z[..., :1]))
    return torch.cat(parts, dim=-1)


def blocks_of(clips: torch.Tensor, temporal: int, spatial: int) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    """``[B, 3, F, H, W]`` -> rows ``[B * t * h * w, 3 * temporal * spatial^2]`` and ``(B, t, h, w)``.

    Raises:
        ValueError: F is not 1 modulo ``temporal``, or a side is not a multiple of ``spatial``.
    """
    b, c, f, height, width = clips.shape
    if (f - 1) % temporal or height % spatial or width % spatial:
        raise ValueError(
            f"clip of {f} x {height} x {width}: frames must be {temporal}n+1, sides multiples of {spatial}"
        )
    padded = torch.cat([clips[:, :, :1].expand(-1, -1, temporal - 1, -1, -1), clips], dim=2)
    t, h, w = padded.shape[2] // temporal, height // spatial, width // spatial
    x = padded.reshape(b, c, t, temporal, h, spatial, w, spatial)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b * t * h * w, -1), (b, t, h, w)
