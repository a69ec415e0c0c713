"""Weights that are read by large reads, into memory that is used again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoetrope.model.checkpoints import spans
from zoetrope.model.checkpoints.spans import Scratch
from zoetrope.model.checkpoints.weights import load_into, open_weights

SEED = 21


class Layers(nn.Module):
    """Some matrices of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(nn.Parameter(torch.empty(32 + 8 * n, 16)) for n in range(12))


@pytest.mark.parametrize("kept", [1 << 20, 0], ids=["kept", "too large to be kept"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_what_was_read_stays_when_memory_is_used_again(
    stored: torch.dtype, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "KEPT_BYTES", kept)
    generator = torch.Generator().manual_seed(SEED)
    with torch.device("meta"):
        network = Layers()
    wanted = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in network.state_dict().items()}
    save_file({name: value.to(stored) for name, value in wanted.items()}, tmp_path / "layers.safetensors")
    with open_weights([tmp_path / "layers.safetensors"]) as tensors:
        load_into(network, tensors, tmp_path, torch.device("cpu"), torch.float32, threads=3)
    for name, value in network.state_dict().items():
        assert value.dtype is torch.float32
        assert torch.equal(value, wanted[name].to(stored).float()), name


def test_a_thread_takes_the_same_memory_again() -> None:
    scratch = Scratch()
    first = scratch.take(100)
    assert scratch.take(60).data_ptr() == first.data_ptr()
    assert scratch.take(200).numel() == 200
