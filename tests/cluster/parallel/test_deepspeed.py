"""DeepSpeed as an independent oracle: its MoE layer for the experts, its Ulysses for attention."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from tests.cluster.parallel.deepspeed_jobs import beside_deepspeed
from tests.cluster.parallel.gangs import Gangs


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_experts_and_attention_are_those_of_deepspeed(gangs: Gangs) -> None:
    answers = gangs.run(2, beside_deepspeed, 9, 4, [5, 1, 8])
    gangs.close()  # its globals die with the workers
    for experts, attention in answers:
        for theirs, ours in (experts, attention):
            assert theirs.shape == ours.shape
            assert float(theirs.norm()) > 0.1
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
