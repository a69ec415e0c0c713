"""Where the tests of the kernels run them."""

from __future__ import annotations

import os

import torch

from tests.conftest import has_gpu


def test_a_gpu_that_pytorch_can_use_is_used() -> None:
    assert has_gpu() == torch.cuda.is_available()
    assert has_gpu() or os.environ["TRITON_INTERPRET"] == "1"
